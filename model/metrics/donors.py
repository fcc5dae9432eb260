"""Whose history, memory, clip or pair a row is given as a control: a row's of another dialogue.

Knows nothing of what is exchanged.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace


def donors(dialogues: Sequence[Hashable], sizes: Sequence[float]) -> list[int | None]:
    """For each row the number of one of another dialogue, as like it in size as can be; None where all are of one.

    By size, then place: the row looks up, then down, for the nearest row of another dialogue, and of two that differ
    as much from it takes the one above. So rows of one size are given different ones, and the same every time.
    """
    order = sorted(range(len(sizes)), key=lambda row: (sizes[row], row))
    found: list[int | None] = [None] * len(order)
    for at, row in enumerate(order):
        above = next((r for r in order[at + 1 :] if dialogues[r] != dialogues[row]), None)
        below = next((r for r in reversed(order[:at]) if dialogues[r] != dialogues[row]), None)
        others = [other for other in (above, below) if other is not None]
        found[row] = min(others, key=lambda other: abs(sizes[other] - sizes[row]), default=None)
    return found


def with_others(
    examples: Sequence,
    fields: Sequence[str],
    kinds: Sequence[Hashable | None],
    sizes: Sequence[float],
    apart: str = "group",
) -> list:
    """Each example with `fields` of one of another dialogue in place of its own, as `donors` chooses.

    apart: the attribute in which the two must differ. kinds: only examples of one kind exchange with each other; None, or without such another: None in its place.
    """
    found: list = [None] * len(examples)
    for kind in dict.fromkeys(kind for kind in kinds if kind is not None):
        rows = [row for row, own in enumerate(kinds) if own == kind]
        given = donors([getattr(examples[row], apart) for row in rows], [sizes[row] for row in rows])
        for row, donor in zip(rows, given, strict=True):
            if donor is not None:
                other = examples[rows[donor]]
                found[row] = replace(examples[row], **{name: getattr(other, name) for name in fields})
    return found
