"""Confidence intervals of a mean by the seeded bootstrap (Efron), resampling clusters.

Rows of one dialogue are alike, so dialogues are drawn, each with all its rows; rows drawn one by one give intervals
that are too narrow. Knows nothing of metrics or systems.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist, fmean
from typing import NamedTuple

import numpy as np

from model.metrics.settings import BootstrapSettings
from model.metrics.student import t_quantile

LEAST_CLUSTERS = 2
"""Clusters below which there is no interval: how far one differs from another cannot be seen."""
ROUNDING = 1e-12
"""Share of the largest value up to which an error is what rounding left of none."""
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

    Each resample draws as many clusters as there are, with replacement, and takes the mean of all their rows. Its
    ends are the mean less and plus Student's t times the standard error of these means: percentiles, which cannot
    leave the range of the clusters, are far too narrow where there are few (Hesterberg, "What Teachers Should Know
    About the Bootstrap", 2015, section 5). ValueError where the numbers of values and clusters differ.
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
    # Of the values less their mean, so that no digits are lost where they are alike.
    sums = np.bincount(place, values - mean, minlength=count)
    means = _resampled(sums, np.bincount(place, minlength=count), settings)
    error = float(means.std() * np.sqrt(count / (count - 1)))  # as the sample's variance has n - 1
    if error <= ROUNDING * np.abs(values).max():
        error = 0.0
    reach = t_quantile((1 + settings.level) / 2, count - 1) * error
    return Bootstrap(Interval(mean, mean - reach, mean + reach), error, count)


def bootstrap_of(
    counts: np.ndarray,
    clusters: Sequence[Hashable],
    whole: Callable[[np.ndarray], float],
    settings: BootstrapSettings | None = None,
) -> Interval:
    """As `bootstrap`, of a figure `whole` that is made of summed counts [k], of rows [n, k], as BLEU and perplexity are.

    A resample that has no such figure (NaN) says nothing of it, and is left out.
    """
    settings = settings or BootstrapSettings()
    if len(counts) != len(clusters):
        raise ValueError(f"bootstrap_of: {len(counts)} rows but {len(clusters)} clusters; pair them up")
    nothing = float("nan")
    if not len(counts):
        return Interval(nothing, nothing, nothing)
    numbered: dict[Hashable, int] = {}
    place = np.array([numbered.setdefault(cluster, len(numbered)) for cluster in clusters])
    count, value = len(numbered), whole(counts.sum(0))
    if count < LEAST_CLUSTERS:
        return Interval(value, nothing, nothing)
    sums = np.zeros((count, counts.shape[1]))
    np.add.at(sums, place, counts)
    generator = np.random.default_rng(settings.seed)
    drawn = (
        np.bincount(generator.integers(0, count, count), minlength=count) for _ in range(settings.resamples)
    )
    figures = np.array([whole(times @ sums) for times in drawn])
    figures = figures[~np.isnan(figures)]
    if not len(figures):
        return Interval(value, nothing, nothing)
    error = float(figures.std() * np.sqrt(count / (count - 1)))
    reach = t_quantile((1 + settings.level) / 2, count - 1) * error
    return Interval(value, value - reach, value + reach)


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    settings: BootstrapSettings | None = None,
) -> Interval:
    """The interval of `bootstrap` alone."""
    return bootstrap(values, clusters, settings).interval


def mean_figures(
    of: Mapping[str, Sequence[float]], clusters: Sequence[Hashable], settings: BootstrapSettings | None = None
) -> dict:
    """KEY, its mean, and KEY_ci, the interval's ends, of each; None of one cluster, which gives no interval."""
    found: dict = {}
    for name, values in of.items():
        _, low, high = bootstrap_mean(values, clusters, settings)
        found[name] = round(fmean(values), 6)
        found[f"{name}_ci"] = None if low != low else [round(low, 6), round(high, 6)]
    return found


def bootstrap_share(
    hits: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    settings: BootstrapSettings | None = None,
) -> Interval:
    """As `bootstrap_mean`, of zeros and ones, within 0 to 1.

    Where all clusters have one share nothing varies, and a resample knows no doubt: then it is Wilson's interval
    (1927) with as many trials as there are clusters, since of alike rows one says what the others say.
    """
    settings = settings or BootstrapSettings()
    found = bootstrap(hits, clusters, settings)
    mean, low, high = found.interval
    if found.error == 0:
        z, n = NormalDist().inv_cdf((1 + settings.level) / 2), found.clusters
        middle, reach = mean + z**2 / (2 * n), z * np.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
        low, high = (float((middle + side * reach) / (1 + z**2 / n)) for side in (-1, 1))
    return Interval(mean, *(end if np.isnan(end) else min(1.0, max(0.0, end)) for end in (low, high)))


def _resampled(sums: np.ndarray, sizes: np.ndarray, settings: BootstrapSettings) -> np.ndarray:
    """The mean of each resample, float [resamples]."""
    generator, count = np.random.default_rng(settings.seed), len(sums)
    at_once = max(1, CHUNK // count)
    means = []
    for start in range(0, settings.resamples, at_once):
        drawn = generator.integers(0, count, (min(at_once, settings.resamples - start), count))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return np.concatenate(means)
