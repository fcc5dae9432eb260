"""What is answered to an exchange's sentence: by the LLM in an asked emotion, in a preference pair, by a rung.

The key of each begins with its exchange's. Knows nothing of Parquet (storage/shards) or of models.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reply that the LLM wrote. cosine: to the true reply, once it is scored.

    source: "prompted", in an emotion that it was asked for, by `prompt`; or "dialogue", one of the samples of the
    finetuned LLM in its own prompt, of which it is number `sample`: emotion and prompt are None, since none was asked
    for. usable: whether it may become part of a pair; `reason` says why not. finish_reason: why the LLM stopped.
    """

    dataset: str
    split: str
    dialogue_id: str
    turn: int
    source: str
    emotion: str | None
    sample: int
    prompt: str | None
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
        """The key of its exchange."""
        return (self.dataset, self.split, self.dialogue_id, self.turn)


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference pair beside the true reply to its sentence.

    reply: the true reply. chosen: the same, or the candidate whose emotion is most like its own; rejected: a candidate
    in another emotion, which rejected_emotion names where one was asked for.
    """

    dataset: str
    split: str
    dialogue_id: str
    turn: int
    sentence: str
    reply: str
    chosen: str
    rejected: str
    rejected_emotion: str | None
    cosine: float
    """Cosine similarity of the rejected and the true reply's emotions."""
    chosen_cosine: float | None = None
    """Of the chosen and the true reply's; None where they are one."""

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
        """The key of its exchange."""
        return (self.dataset, self.split, self.dialogue_id, self.turn)
