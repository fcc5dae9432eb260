"""How far raters agree on ordered values: Krippendorff's alpha of many raters, Cohen's weighted kappa of two.

Each with an interval that resamples clusters of what was rated. Knows nothing of who rated what.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np

from model.metrics.bootstrap import ROUNDING, Interval, bootstrap_of
from model.metrics.settings import BootstrapSettings


def ordinal_alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Krippendorff's alpha with the ordinal difference ("Computing Krippendorff's Alpha-Reliability", 2011).

    units: of each thing that was rated the values it was given, in any order; one with fewer than two says nothing of
    agreement and is left out. 1 is agreement, 0 what chance gives. None where all values are one, or there are none.
    """
    return _known(_alpha(_coincidences(list(units)).sum(0)))


def alpha_interval(
    units: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    settings: BootstrapSettings | None = None,
) -> Interval:
    """`ordinal_alpha` with its interval; clusters: of each unit, such as its conversation. NaN where there is none.

    Raters are not resampled: one who was drawn twice would agree with himself.
    """
    return _interval(_coincidences(units), clusters, _alpha, settings)


def _coincidences(units: Sequence[Sequence[float]]) -> np.ndarray:
    """Of each unit how often any two levels stand beside each other in it: every ordered pair of its values, each value
    counted once. Their sum is Krippendorff's o[c, k]. [units, levels ** 2]"""
    rated = [list(values) if len(values) > 1 else [] for values in units]
    levels = sorted({value for values in rated for value in values})
    place = {value: at for at, value in enumerate(levels)}
    found = np.zeros((len(rated), len(levels), len(levels)))
    for at, values in enumerate(rated):
        if values:
            counts = np.bincount([place[value] for value in values], minlength=len(levels))
            found[at] = (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)
    return found.reshape(len(rated), len(levels) ** 2)


def _alpha(sums: np.ndarray) -> float:
    """Of summed `_coincidences`; NaN where fewer than two levels occur."""
    coincidences = _square(sums)
    totals = coincidences.sum(0)
    if (totals > 0).sum() < 2:
        return math.nan
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
    return _known(_kappa(_cells(first, second, levels).sum(0)))


def kappa_interval(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    levels: Sequence[Hashable],
    clusters: Sequence[Hashable],
    settings: BootstrapSettings | None = None,
) -> Interval:
    """`weighted_kappa` with its interval; clusters: of each pair of values, such as its dialogue. NaN where there is none."""
    return _interval(_cells(first, second, levels), clusters, _kappa, settings)


def _cells(first: Sequence[Hashable], second: Sequence[Hashable], levels: Sequence[Hashable]) -> np.ndarray:
    """Of each pair of values a 1 at its cell of the table of levels beside levels. [pairs, levels ** 2]"""
    if len(first) != len(second):
        raise ValueError(f"weighted_kappa: {len(first)} values beside {len(second)}; pair them up")
    place = {level: at for at, level in enumerate(levels)}
    found = np.zeros((len(first), len(levels) ** 2))
    for at, (a, b) in enumerate(zip(first, second, strict=True)):
        found[at, place[a] * len(levels) + place[b]] = 1
    return found


def _kappa(sums: np.ndarray) -> float:
    """Of summed `_cells`; NaN where chance leaves nothing to disagree on."""
    table = _square(sums)
    weights = np.subtract.outer(np.arange(len(table)), np.arange(len(table))) ** 2
    expected = np.outer(table.sum(1), table.sum(0)) / max(1, table.sum())
    chance = (weights * expected).sum()
    return math.nan if chance == 0 else float(1 - (weights * table).sum() / chance)


def _square(sums: np.ndarray) -> np.ndarray:
    side = math.isqrt(len(sums))
    return sums.reshape(side, side)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _interval(
    counts: np.ndarray,
    clusters: Sequence[Hashable],
    whole: Callable[[np.ndarray], float],
    settings: BootstrapSettings | None,
) -> Interval:
    """Within -1 to 1. Where nothing varied there is no interval: that all agreed says not how far others would."""
    mean, low, high = bootstrap_of(counts, clusters, whole, settings)
    if math.isnan(mean) or not high - low > ROUNDING:
        return Interval(mean, math.nan, math.nan)
    return Interval(mean, max(-1.0, low), min(1.0, high))
