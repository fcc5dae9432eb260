"""Confidence intervals of a mean by the seeded percentile bootstrap (Efron).

Knows nothing of metrics or systems.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from model.metrics.settings import BootstrapSettings


class Interval(NamedTuple):
    """A mean and the ends of its interval; all three are NaN for no values."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, settings: BootstrapSettings | None = None
) -> Interval:
    """Mean of float [n] values with the percentile interval of its resampled means. Same seed, same interval."""
    settings = settings or BootstrapSettings()
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    generator = np.random.default_rng(settings.seed)
    # One resample at a time: memory stays at n values however many are drawn.
    means = [
        values[generator.integers(0, values.size, values.size)].mean() for _ in range(settings.resamples)
    ]
    low, high = np.quantile(means, [(1 - settings.level) / 2, (1 + settings.level) / 2])
    return Interval(float(values.mean()), float(low), float(high))
