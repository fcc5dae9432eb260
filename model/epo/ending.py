"""Why EPO ends, and which check's weights it keeps: by its held-out ranking, by collapse, by what the model says itself.

Functions of the history alone (model/training.py, `Rule`). Knows nothing of models or of how a step is taken.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from model.epo.collapse import collapse_step
from model.epo.settings import EpoSettings
from model.metrics.verdict import LEARNED, verdict
from model.training import History, Rule

LEAST_STUCK = 2
"""Stuck replies below which nothing ends: one may be chance."""


def ranking(start: Sequence[float], now: Sequence[float], groups: Sequence[Hashable]) -> dict[str, float]:
    """How much better pairs are ranked than at the start, from the margins [n] of both; groups: their dialogues.

    "accuracy_gain" with its interval over dialogues, "_low" and "_high", where there is one; "moved": 1 where that lies
    above zero and the dialogues are enough to tell, else 0.
    """
    gains = [float(after > 0) - float(before > 0) for before, after in zip(start, now, strict=True)]
    found = verdict(gains, groups)
    ends = {} if found.low is None else {"accuracy_gain_low": found.low, "accuracy_gain_high": found.high}
    return {"accuracy_gain": found.mean or 0.0, **ends, "moved": float(found.grade == LEARNED)}


def ending(settings: EpoSettings, collapse_steps: int, sampled: int) -> Rule:
    """The rule of a training by itself. sampled: replies that a check looks at."""

    def too_stuck(history: History) -> bool:
        check = history.heldout[-1]
        stuck, at_first = check.get("stuck", 0.0), history.heldout[0].get("stuck", 0.0)
        return round(stuck * sampled) >= LEAST_STUCK and stuck > max(settings.max_stuck_share, at_first)

    def ends(history: History) -> str:
        check, first = history.heldout[-1], history.heldout[0]
        if too_stuck(history):
            return (
                f"stuck replies: {check['stuck']:.0%} of {sampled} at step {check['step']} are empty or looped, "
                f"{first['stuck']:.0%} before the first, above the bound of {settings.max_stuck_share:.0%}"
            )
        if collapse_step(history.train[-collapse_steps:], collapse_steps) is not None:
            return f"collapse: both rewards fell for {collapse_steps} steps"
        if settings.until == "moved" and check.get("moved"):
            return (
                f"held-out ranking that has moved: {first['accuracy']:.0%} → {check['accuracy']:.0%}, by "
                f"{check['accuracy_gain_low']:+.3f} to {check['accuracy_gain_high']:+.3f}"
            )
        return ""

    def keeps(history: History) -> bool | None:
        if len(history.heldout) > 1 and too_stuck(history):
            return False
        return True if settings.until == "moved" and history.heldout[-1].get("moved") else None

    return Rule(ends, keeps)


def following(step: int) -> Rule:
    """The rule of a training that takes as many steps as another one kept, and keeps the last of them."""

    def ends(history: History) -> str:
        return f"the step that EPO kept, {step}" if len(history.train) >= step else ""

    return Rule(ends, lambda history: len(history.train) == step)
