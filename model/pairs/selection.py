"""Choosing the counter-emotional reply among an exchange's candidates (paper sections 3.3 and 8).

Works on cosines alone; knows nothing of how they were computed or where rows are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Choice:
    """The least similar usable candidate of one exchange, or why there is none."""

    index: int | None
    cosine: float | None
    reason: str
    """"" when kept, else "no_usable_candidate" or "not_below_threshold"."""


def choose(cosines: Sequence[float], usable: Sequence[bool], threshold: float) -> Choice:
    """Least cosine among the usable ones, ties by order; kept when strictly below `threshold`."""
    eligible = [i for i, good in enumerate(usable) if good]
    if not eligible:
        return Choice(None, None, "no_usable_candidate")
    best = min(eligible, key=lambda i: (cosines[i], i))
    kept = cosines[best] < threshold
    return Choice(best if kept else None, cosines[best], "" if kept else "not_below_threshold")


def most_similar(cosines: Sequence[float], usable: Sequence[bool]) -> int | None:
    """The usable one of greatest cosine, ties by order; None where none is usable."""
    eligible = [i for i, good in enumerate(usable) if good]
    return max(eligible, key=lambda i: (cosines[i], -i), default=None)


def choose_length_matched(
    cosines: Sequence[float], usable: Sequence[bool], lengths: Sequence[int], wanted: int, threshold: float
) -> Choice:
    """Of the usable ones below `threshold` the one whose length is nearest to `wanted`, ties by cosine, then order.

    Not in the paper. Where none is below, as `choose`.
    """
    below = [i for i, good in enumerate(usable) if good and cosines[i] < threshold]
    if not below:
        return choose(cosines, usable, threshold)
    best = min(below, key=lambda i: (abs(lengths[i] - wanted), cosines[i], i))
    return Choice(best, cosines[best], "")


def balanced(gaps: Sequence[int]) -> list[bool]:
    """Which pairs stay so that as many rejected replies are longer as are shorter; those of equal length all do.

    gaps: words by which each pair's rejected reply is longer. Of the commoner sign the largest gaps leave, the
    later of equal ones first.
    """
    longer = sorted((i for i, gap in enumerate(gaps) if gap > 0), key=lambda i: (gaps[i], i))
    shorter = sorted((i for i, gap in enumerate(gaps) if gap < 0), key=lambda i: (-gaps[i], i))
    fewer = min(len(longer), len(shorter))
    leave = {*longer[fewer:], *shorter[fewer:]}
    return [i not in leave for i in range(len(gaps))]


def equal_error_cosine(same: Sequence[float], different: Sequence[float]) -> float:
    """The cosine t where the share of same-emotion pairs below t equals that of different-emotion ones above.

    The midpoint of the two neighbouring cosines between which the two error rates cross.
    """
    same, different = np.sort(np.asarray(same)), np.sort(np.asarray(different))
    points = np.unique(np.concatenate([same, different]))
    missed = np.searchsorted(same, points, side="left") / len(same)
    false = 1 - np.searchsorted(different, points, side="left") / len(different)
    crossing = int(np.argmax(missed >= false))
    return float((points[crossing] + points[max(0, crossing - 1)]) / 2)


def threshold_in_force(
    least: Sequence[float | None],
    threshold: float,
    fallback: str,
    least_share: float,
    equal_error: float | None,
) -> float:
    """`threshold`, or the equal-error cosine where that keeps more and it keeps less than `least_share` of train.

    least: each train exchange's least cosine, None where no candidate was usable.
    """
    enough = not least or share_below(least, threshold) >= least_share
    if fallback == "none" or equal_error is None or enough:
        return threshold
    return max(threshold, equal_error)


def share_below(least: Sequence[float | None], threshold: float) -> float:
    """Share of all exchanges whose least cosine is below; one without a usable candidate (None) is not."""
    return sum(c is not None and c < threshold for c in least) / max(1, len(least))
