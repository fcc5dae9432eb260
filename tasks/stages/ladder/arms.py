"""The arms of the memory ladder: the ways of giving the LLM one history that are compared on the same replies.

Knows nothing of how they are measured; imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from model.dialogue.settings import DialogueSettings

ArmName = Literal["none", "text-1", "text-2", "full", "mean", "mean-text-1", "memory", "memory-text-1"]


@dataclass(frozen=True)
class Arm:
    """history: the form of the dialogue model; changes: what the arm sets of the dialogue settings."""

    name: ArmName
    title: str
    history: Literal["text", "memory"]
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_compressor(self) -> bool:
        return self.changes.get("memory") == "mamba"

    def settings(self, dialogue: DialogueSettings) -> DialogueSettings:
        """The dialogue settings with the arm's way of giving the history; all else is alike in all arms."""
        return dialogue.model_copy(update=dict(self.changes))


def _memories(kind: str, recent: int) -> dict[str, Any]:
    """Without the loss of reading memories back: arms of text have none, and part of the same budget would go to it."""
    return {"memory": kind, "recent_utterances": recent, "reconstruction_weight": 0.0}


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("none", "no history", "text", {"max_history_utterances": 0}),
        Arm("text-1", "the last turn as text", "text", {"max_history_utterances": 1}),
        Arm("text-2", "the last two turns as text", "text", {"max_history_utterances": 2}),
        Arm("full", "the full history as text", "text"),
        Arm("mean", "mean embeddings", "memory", _memories("mean", 0)),
        Arm("mean-text-1", "mean embeddings + the last turn as text", "memory", _memories("mean", 1)),
        Arm("memory", "MambaCompressor memories", "memory", _memories("mamba", 0)),
        Arm("memory-text-1", "memories + the last turn as text", "memory", _memories("mamba", 1)),
    )
}


def known_by(adapter: Literal["text", "memory"], dialogue: DialogueSettings) -> set[str]:
    """The arms whose prompts the rung's adapter of that history form was trained on; the others it meets for the first time."""
    known = {"none"} if dialogue.history_dropout else set()
    if adapter == "text":
        return known | {"full"}
    ways = _memories(dialogue.memory, dialogue.recent_utterances)
    return known | {name for name, arm in ARMS.items() if arm.changes == ways}
