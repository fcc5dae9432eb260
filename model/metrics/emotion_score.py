"""EmotionScore: how close in emotion a reply is to the true one.

Knows nothing of systems or datasets, nor of which scorer it is given.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class FeatureScorer(Protocol):
    """What gives emotion features, as `model.scorer.scorer.EmotionScorer` does."""

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, width]."""


def emotion_scores(replies: Sequence[str], references: Sequence[str], scorer: FeatureScorer) -> np.ndarray:
    """Cosine similarity of each reply's emotion features with its reference's, float64 [n].

    The paper's EmotionScore is the mean. ValueError when the numbers of texts differ.
    """
    said, true = _features(replies, references, scorer)
    return (said * true).sum(1)


def emotion_contrasts(
    replies: Sequence[str], references: Sequence[str], datasets: Sequence[str], scorer: FeatureScorer
) -> np.ndarray:
    """EmotionScore less chance: less the mean cosine of the same reply with all other references of its dataset.

    float64 [n]; NaN where the dataset has no other. One reply for everything has a mean of zero in each dataset,
    however well it suits the emotion that is usual there.
    """
    said, true = _features(replies, references, scorer)
    found = np.full(len(replies), np.nan)
    for dataset in dict.fromkeys(datasets):
        rows = [i for i, own in enumerate(datasets) if own == dataset]
        if len(rows) > 1:
            own = (said[rows] * true[rows]).sum(1)
            found[rows] = own - (said[rows] @ true[rows].sum(0) - own) / (len(rows) - 1)
    return found


def _features(
    replies: Sequence[str], references: Sequence[str], scorer: FeatureScorer
) -> tuple[np.ndarray, np.ndarray]:
    """Of replies and of references, float64 [n, width] each."""
    if len(replies) != len(references):
        raise ValueError(
            f"emotion_scores: {len(replies)} replies but {len(references)} references; pair them up"
        )
    if not replies:
        return np.empty((0, 1)), np.empty((0, 1))
    # One call, so that texts common to both sides are computed once.
    features = scorer.features([*replies, *references]).astype(np.float64)
    return features[: len(replies)], features[len(replies) :]
