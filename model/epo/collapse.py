"""Whether EPO has made both replies of its pairs ever less likely: the margin may grow all the while.

Judged by the rewards of the training steps themselves, the mean of a batch's, which are noisy: batches differ. So no
two steps are compared. Rewards have been falling for n steps where the straight line through the last n lies lower
at its end, by more than chance would have it (`is_falling`). Knows nothing of models, losses or of how training goes.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence

LOG = logging.getLogger(__name__)
"""Warns of a collapse while the run can still be stopped."""

REWARDS = ("reward_chosen", "reward_rejected")
"""In the log of every step."""

LEAST_STEPS = 8
"""Fewer tell no fall from chance."""

SURE = 4.0
"""Standard errors of its slope by which a line must fall. Of a thousand steps of rewards that only vary, 50 in a row
look like a fall of both replies in one run of a hundred; with 3 in one of six."""


class CollapseWatch:
    """Looks at one step after the other, and logs once that both rewards have been falling for `count` steps.

    earlier: the log of the steps before a run was cut off; a collapse among them is logged again.
    """

    def __init__(self, count: int, earlier: Iterable[dict[str, float]] = ()):
        self._last: deque[dict[str, float]] = deque(maxlen=count)
        self._reported = False
        for entry in earlier:
            self.look(entry)

    def look(self, entry: dict[str, float]) -> None:
        """Take in the log of the next step: its number, `step`, and the rewards."""
        self._last.append(entry)
        if not self._reported and len(self._last) == self._last.maxlen and both_fall(self._last):
            self._reported = True
            first, last = self._last[0], self._last[-1]
            falls = ", ".join(f"{name} {first[name]:.2f} → {last[name]:.2f}" for name in REWARDS)
            LOG.warning(
                "EPO: step %d: collapse: both rewards have been falling for %d steps (%s); lower the learning rate "
                "or gamma, or raise the weight of the autoregressive loss",
                entry["step"], len(self._last), falls,
            )  # fmt: skip


def collapse_step(entries: Sequence[dict[str, float]], count: int) -> int | None:
    """The first step at which both rewards have been falling for `count` steps, from the logs of all; None: never.

    A function of the logs alone, so a run that was cut off and went on says the same.
    """
    ends = range(count, len(entries) + 1)
    return next((int(entries[e - 1]["step"]) for e in ends if both_fall(entries[e - count : e])), None)


def both_fall(entries: Collection[dict[str, float]]) -> bool:
    """Whether both rewards fall over these steps, which are too few to tell below LEAST_STEPS."""
    return len(entries) >= LEAST_STEPS and all(is_falling([e[name] for e in entries]) for name in REWARDS)


def is_falling(values: Sequence[float], sure: float = SURE) -> bool:
    """Whether the least-squares line through equally spaced values falls by more than `sure` standard errors.

    The slope b = Sxy / Sxx has the standard error sqrt((Syy - b Sxy) / (n - 2) / Sxx). By hand, of 3, 2, 2, 0:
    Sxx = 5, Sxy = -4.5, Syy = 4.75, so b = -0.9, and the standard error sqrt(0.7 / 2 / 5) = 0.2646: it falls by
    3.40 of them. ValueError for fewer than three values.
    """
    count = len(values)
    if count < 3:
        raise ValueError(f"a line's error needs three values at least, not {count}")
    places = [i - (count - 1) / 2 for i in range(count)]
    above = [value - values[0] for value in values]  # exactly zero where nothing changes
    mean = math.fsum(above) / count
    sxx = math.fsum(x * x for x in places)
    sxy = math.fsum(x * y for x, y in zip(places, above, strict=True))
    syy = math.fsum((y - mean) ** 2 for y in above)
    slope = sxy / sxx
    error = math.sqrt(max(0.0, syy - slope * sxy) / (count - 2) / sxx)
    return slope < -sure * error
