"""What stands beside systems and asks nobody, floors and the true reply, for every stage that sets it beside what it measures."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from model.metrics.donors import donors
from storage.answers import Reply

OKAY = "Okay."
ALWAYS_OKAY = f'always "{OKAY}"'
ANOTHERS = "a human reply of another dialogue"
HUMAN = "human"
BESIDE = {"floor-okay": ALWAYS_OKAY, "floor-people": ANOTHERS, HUMAN: "the true reply"}
"""Name -> what it is: two floors and the ceiling, that replies of any system can be set beside."""


def replies_of_others(references: Sequence[str], dialogues: Sequence[Hashable]) -> list[str | None]:
    """For each exchange the true reply to one of another dialogue, as long as can be; None where all are of one."""
    given = donors(dialogues, [len(reference) for reference in references])
    return [None if at is None else references[at] for at in given]


def replies_beside(name: str, replies: Sequence[Reply]) -> list[Reply]:
    """What one of BESIDE says to the exchanges of these replies; an exchange that it has no reply to is left out."""
    references = [reply.reference for reply in replies]
    said: Sequence[str | None] = references
    if name == "floor-okay":
        said = [OKAY] * len(replies)
    elif name == "floor-people":
        said = replies_of_others(references, [reply.key[:3] for reply in replies])
    return [replace(r, rung=name, reply=text) for r, text in zip(replies, said, strict=True) if text]
