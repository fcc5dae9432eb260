"""Confidence intervals of a mean by the seeded percentile bootstrap (Efron), resampling clusters.

Rows of one dialogue are alike, so dialogues are drawn, each with all its rows; rows drawn one by one give intervals
that are too narrow. Knows nothing of metrics or systems.
"""

from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from model.metrics.settings import BootstrapSettings
from model.metrics.student import t_quantile

LEAST_CLUSTERS = 2
"""Clusters below which there is no interval: how far one differs from another cannot be seen."""
CHUNK = 1 << 18
"""Clusters drawn at a time: memory stays bounded however many resamples there are."""


class Interval(NamedTuple):
    """A mean and the ends of its interval. All three are NaN for no values, the ends where there is no interval."""

    mean: float
    low: float
    high: float


class Bootstrap(NamedTuple):
    """An interval, the standard error of its mean (NaN without an interval), and how many clusters were drawn from."""

    interval: Interval
    error: float
    clusters: int


def bootstrap(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    settings: BootstrapSettings | None = None,
) -> Bootstrap:
    """Mean of float [n] values, the cluster of each in `clusters` [n]; same seed and rows, same interval.

    Each resample draws as many clusters as there are, with replacement, and takes the mean of all their rows. With
    few clusters the plain percentiles are too narrow, so those of Hesterberg's expanded interval are taken
    ("What Teachers Should Know About the Bootstrap", 2015, section 5.3), whose width on normal data is Student's.
    ValueError where the numbers of values and clusters differ.
    """
    settings = settings or BootstrapSettings()
    values = np.asarray(values, dtype=np.float64)
    if len(values) != len(clusters):
        raise ValueError(f"bootstrap: {len(values)} values but {len(clusters)} clusters; pair them up")
    nothing = float("nan")
    if not len(values):
        return Bootstrap(Interval(nothing, nothing, nothing), nothing, 0)
    numbered: dict[Hashable, int] = {}
    place = np.array([numbered.setdefault(cluster, len(numbered)) for cluster in clusters])
    count, mean = len(numbered), float(values.mean())
    if count < LEAST_CLUSTERS:
        return Bootstrap(Interval(mean, nothing, nothing), nothing, count)
    # Of the values less their mean: where all are alike the interval is that value, to the last digit.
    sums = np.bincount(place, values - mean, minlength=count)
    means = _resampled(sums, np.bincount(place, minlength=count), settings) + mean
    below = NormalDist().cdf(-np.sqrt(count / (count - 1)) * t_quantile((1 + settings.level) / 2, count - 1))
    low, high = np.quantile(means, [below, 1 - below])
    error = means.std() * np.sqrt(count / (count - 1))
    return Bootstrap(Interval(mean, float(low), float(high)), float(error), count)


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    settings: BootstrapSettings | None = None,
) -> Interval:
    """The interval of `bootstrap` alone."""
    return bootstrap(values, clusters, settings).interval


def _resampled(sums: np.ndarray, sizes: np.ndarray, settings: BootstrapSettings) -> np.ndarray:
    """The mean of each resample, float [resamples]."""
    generator, count = np.random.default_rng(settings.seed), len(sums)
    at_once = max(1, CHUNK // count)
    means = []
    for start in range(0, settings.resamples, at_once):
        drawn = generator.integers(0, count, (min(at_once, settings.resamples - start), count))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return np.concatenate(means)
