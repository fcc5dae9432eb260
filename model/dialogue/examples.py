"""What the dialogue model learns from: an exchange with its history and, where there is media, its features.

Knows nothing of where rows come from or how they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DialogueExample:
    """history: role-tagged utterances before the sentence ("gpt: ..."), oldest first.

    audio: Whisper states [Ta, d_audio] or None; video: frame tokens [Tv, d_video] or None. dialogue: which one the
    exchange is of; "" where it stands alone.
    """

    key: str
    history: tuple[str, ...]
    sentence: str
    reply: str
    audio: Tensor | None = None
    video: Tensor | None = None
    dialogue: str = ""

    @property
    def group(self) -> str:
        """What tells rows of one dialogue from those of another."""
        return self.dialogue or self.key


@dataclass(frozen=True)
class PreferenceExample:
    """An exchange and its counter-emotional reply: y_a is example.reply, y_i is counter_emotional."""

    example: DialogueExample
    counter_emotional: str
