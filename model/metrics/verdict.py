"""A verdict on paired differences: is there a gain, with what interval, and what could have been seen at all.

Every sentence of a run about what a stage learned, or what a rung adds, comes from here. Knows nothing of stages,
metrics or what was measured.
"""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from model.metrics.bootstrap import bootstrap
from model.metrics.settings import BootstrapSettings
from model.metrics.student import t_quantile

LEARNED = "learned"
NO_DIFFERENCE = "no difference seen"
WORSE = "got worse"
FEW = "not distinguishable"
NOT_TRAINED = "not trained"
NOT_FINITE = "not finite"

LEAST_DIALOGUES = 4
"""Fewest dialogues that decide: how far three differ says next to nothing of how far others would."""
POWER = 0.8
"""With the smallest detectable difference, the share of such runs whose interval would lie above zero."""


@dataclass(frozen=True)
class Verdict:
    """grade: one of this module's. mean, low, high: of the differences, above zero is better; None: there is none.

    rows, dialogues: how many differences, of how many dialogues. detectable: the smallest true mean that so many
    dialogues would have shown with probability POWER; None where they are too few.
    """

    grade: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    rows: int = 0
    dialogues: int = 0
    detectable: float | None = None

    def as_dict(self) -> dict:
        return asdict(self)


def verdict(
    differences: Sequence[float] | np.ndarray,
    dialogues: Sequence[Hashable],
    settings: BootstrapSettings | None = None,
) -> Verdict:
    """Grade paired differences (better less worse, one a row); dialogues: the one each row belongs to.

    "learned": the interval, which resamples dialogues, lies above zero. "got worse": below. "no difference seen":
    it holds zero. "not distinguishable": fewer than LEAST_DIALOGUES dialogues. "not finite": a difference is NaN
    or infinite, and nothing is said of the others. Whether anything was trained at all is the caller's to know.
    """
    settings = settings or BootstrapSettings()
    values = np.asarray(differences, dtype=np.float64)
    counts = {"rows": len(values), "dialogues": len(set(dialogues))}
    if not np.isfinite(values).all():
        return Verdict(NOT_FINITE, **counts)
    found = bootstrap(values, dialogues, settings)
    mean, low, high = (None if np.isnan(part) else round(part, 6) for part in found.interval)
    if found.clusters < LEAST_DIALOGUES:
        return Verdict(FEW, mean, low, high, **counts)
    grade = LEARNED if low > 0 else WORSE if high < 0 else NO_DIFFERENCE
    freedom = found.clusters - 1
    wanted = t_quantile((1 + settings.level) / 2, freedom) + t_quantile(POWER, freedom)
    return Verdict(grade, mean, low, high, **counts, detectable=round(wanted * found.error, 6))
