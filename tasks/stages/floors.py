"""What systems that read nothing of an exchange reply, for every stage that sets them beside what it measures."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from model.metrics.donors import donors

OKAY = "Okay."
ALWAYS_OKAY = f'always "{OKAY}"'
ANOTHERS = "a human reply of another dialogue"


def replies_of_others(references: Sequence[str], dialogues: Sequence[Hashable]) -> list[str | None]:
    """For each exchange the true reply to one of another dialogue, as long as can be; None where all are of one."""
    given = donors(dialogues, [len(reference) for reference in references])
    return [None if at is None else references[at] for at in given]
