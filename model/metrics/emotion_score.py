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
    if len(replies) != len(references):
        raise ValueError(
            f"emotion_scores: {len(replies)} replies but {len(references)} references; pair them up"
        )
    if not replies:
        return np.empty(0)
    # One call, so that texts common to both sides are computed once.
    features = scorer.features([*replies, *references]).astype(np.float64)
    return (features[: len(replies)] * features[len(replies) :]).sum(1)
