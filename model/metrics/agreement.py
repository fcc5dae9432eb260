"""How far raters agree on ordered values: Krippendorff's alpha of many raters, Cohen's weighted kappa of two.

Knows nothing of who rated what.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np


def ordinal_alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Krippendorff's alpha with the ordinal difference ("Computing Krippendorff's Alpha-Reliability", 2011).

    units: of each thing that was rated the values it was given, in any order; one with fewer than two says nothing of
    agreement and is left out. 1 is agreement, 0 what chance gives. None where all values are one, or there are none.
    """
    rated = [list(values) for values in units if len(values) > 1]
    levels = sorted({value for values in rated for value in values})
    if len(levels) < 2:
        return None
    place = {value: at for at, value in enumerate(levels)}
    coincidences = np.zeros((len(levels), len(levels)))  # o[c, k], of every ordered pair within a unit
    for values in rated:
        counts = np.bincount([place[value] for value in values], minlength=len(levels))
        pairs = np.outer(counts, counts) - np.diag(counts)
        coincidences += pairs / (len(values) - 1)
    totals = coincidences.sum(0)
    differences = _ordinal_differences(totals)
    observed = (coincidences * differences).sum()
    expected = (np.outer(totals, totals) * differences).sum() / (totals.sum() - 1)
    return float(1 - observed / expected)


def _ordinal_differences(totals: np.ndarray) -> np.ndarray:
    """Squared difference of any two levels: how many values lie between them, those of the two by half. [k, k]"""
    upto = np.cumsum(totals)
    lower, upper = np.minimum.outer(upto, upto), np.maximum.outer(upto, upto)
    first = np.minimum.outer(np.arange(len(totals)), np.arange(len(totals)))
    between = upper - lower + totals[first]  # values from one level to the other, both included
    reach = between - np.add.outer(totals, totals) / 2
    np.fill_diagonal(reach, 0)
    return reach**2


def weighted_kappa(
    first: Sequence[Hashable], second: Sequence[Hashable], levels: Sequence[Hashable]
) -> float | None:
    """Cohen's kappa of two raters with quadratic weights (1968); levels: every value there is, in order.

    None where there is nothing to compare, or both gave one and the same value throughout. ValueError where the two
    have not as many values.
    """
    if len(first) != len(second):
        raise ValueError(f"weighted_kappa: {len(first)} values beside {len(second)}; pair them up")
    place = {level: at for at, level in enumerate(levels)}
    table = np.zeros((len(levels), len(levels)))
    for a, b in zip(first, second, strict=True):
        table[place[a], place[b]] += 1
    weights = np.subtract.outer(np.arange(len(levels)), np.arange(len(levels))) ** 2
    expected = np.outer(table.sum(1), table.sum(0)) / max(1, len(first))
    chance = (weights * expected).sum()
    return None if chance == 0 else float(1 - (weights * table).sum() / chance)
