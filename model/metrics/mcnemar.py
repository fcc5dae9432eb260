"""McNemar's exact test (1947): do two systems differ on the same items?

Only items that one got right and the other wrong can tell. If neither is better, each of them falls to either side like
a coin. Items are taken as independent: where those of one dialogue are alike, the interval of `verdict` is the one to
believe. Knows nothing of what was answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb


@dataclass(frozen=True)
class McNemar:
    """n: items both answered; only_first, only_second: right in one alone; p: two-sided, 1 where nothing differs."""

    n: int
    only_first: int
    only_second: int
    p: float

    def as_dict(self) -> dict:
        return asdict(self)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """first, second [n]: whether each item was right. ValueError where they are not of the same items."""
    if len(first) != len(second):
        raise ValueError(f"mcnemar: {len(first)} and {len(second)} items; pair them up")
    only_first = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    only_second = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    differ = only_first + only_second
    tail = sum(comb(differ, k) for k in range(min(only_first, only_second) + 1)) / 2**differ
    return McNemar(len(first), only_first, only_second, round(min(1.0, 2 * tail), 6))
