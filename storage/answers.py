"""What is answered to an exchange's sentence: by the LLM in an asked emotion, in a preference pair, by a rung.

The key of each begins with its exchange's. Knows nothing of Parquet (storage/shards) or of models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reply that the LLM wrote in an emotion it was asked for. cosine: to the true reply, once it is scored.

    usable: whether it may become a rejected reply; `reason` says why not. finish_reason: why the LLM stopped.
    """

    dataset: str
    split: str
    dialogue_id: str
    turn: int
    emotion: str
    prompt: str
    text: str
    finish_reason: str | None
    usable: bool
    reason: str | None
    seed: int
    engine: str
    weights: str
    settings: str
    cosine: float | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Of its exchange."""
        return (self.dataset, self.split, self.dialogue_id, self.turn)


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference pair: the true reply to a sentence (chosen) and one in another emotion (rejected)."""

    dataset: str
    split: str
    dialogue_id: str
    turn: int
    sentence: str
    chosen: str
    rejected: str
    rejected_emotion: str
    cosine: float
    """Of the two replies' emotions."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        return (self.dataset, self.split, self.dialogue_id, self.turn)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a rung of the ladder answered, beside the true reply (reference).

    reference_nats, reference_tokens: of the true reply under the rung, end of turn included. opposed_nats, same_nats:
    nats a token of a human reply of another dialogue, labelled with another emotion and with the same.
    """

    dataset: str
    split: str
    dialogue_id: str
    turn: int
    rung: str
    sentence: str
    reference: str
    reply: str
    sentence_emotion: str | None = None
    reference_emotion: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    reference_nats: float | None = None
    reference_tokens: int | None = None
    opposed_nats: float | None = None
    same_nats: float | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Of its exchange."""
        return (self.dataset, self.split, self.dialogue_id, self.turn)
