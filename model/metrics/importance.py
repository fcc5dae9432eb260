"""What a training moved, from samples that were drawn and scored once: by likelihood, with no reply generated anew.

The samples of an exchange are of the model before training. Weighted by how much likelier training made each, they
say what the trained model's samples would score; and whether likelihood rose where the score is higher. Tells a
difference with a tenth of the exchanges that one greedy reply each takes. Knows nothing of models or scorers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GAP = 0.2
"""Difference in score from which two samples of an exchange are compared (`concordance`)."""


def weighted_gain(before: Sequence[float], after: Sequence[float], scores: Sequence[float]) -> float:
    """Expected score of the trained model's samples less that of the samples as drawn, of one exchange.

    before, after: log-likelihood of each whole sample [n], its end of turn included, before and after training; scores
    [n]. Self-normalised importance weights, w proportional to exp(after - before). By hand: likelihoods that change by
    0 and log 3 weigh 1/4 and 3/4; of the scores 0 and 1 that is 0.75 - 0.5 = 0.25. NaN of no sample.
    """
    change, scored = _changes(before, after, scores)
    if not len(scored):
        return float("nan")
    weights = np.exp(change - change.max())
    return float(weights @ scored / weights.sum() - scored.mean())


def effective_share(before: Sequence[float], after: Sequence[float]) -> float:
    """Samples that the weights leave, as a share of all (Kish): 1 where nothing moved, 1/n where one has all weight."""
    change, _ = _changes(before, after, before)
    weights = np.exp(change - change.max(initial=-np.inf))
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights)) if len(weights) else float("nan")


def concordance(
    before: Sequence[float], after: Sequence[float], scores: Sequence[float], gap: float = GAP
) -> float:
    """Share of an exchange's pairs of samples, their scores more than `gap` apart, whose higher one gained more.

    before, after: mean log-likelihood of a token of each sample. A tie counts half; NaN where no pair is so far apart.
    """
    change, scored = _changes(before, after, scores)
    higher = scored[:, None] - scored[None] > gap
    if not higher.any():
        return float("nan")
    rose = change[:, None] - change[None]
    return float(np.where(rose == 0, 0.5, rose > 0)[higher].mean())


def _changes(
    before: Sequence[float], after: Sequence[float], scores: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    if not len(before) == len(after) == len(scores):
        raise ValueError(
            f"{len(before)} likelihoods before, {len(after)} after and {len(scores)} scores; give one of each a sample"
        )
    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return change, np.asarray(scores, dtype=np.float64)
