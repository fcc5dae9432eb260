"""Which of six emotions a text is nearest to, of a GoEmotions classifier's probabilities.

Knows nothing of systems or datasets, nor of which classifier it is.
"""

from collections.abc import Sequence

import numpy as np

from model.scorer.labels import GOEMOTIONS_LABELS

GROUPS = {
    "happy": ("joy", "amusement", "approval", "excitement", "gratitude", "love", "optimism", "relief", "pride",
              "admiration", "desire", "caring"),
    "sad": ("sadness", "disappointment", "embarrassment", "grief", "remorse"),
    "angry": ("anger", "annoyance", "disapproval"),
    "fearful": ("fear", "nervousness"),
    "disgust": ("disgust",),
    "surprise": ("surprise", "realization", "confusion", "curiosity"),
}  # fmt: skip
"""The grouping of GoEmotions (Demszky et al. 2020, section 5.1, after Ekman), under this project's names."""


def agreement(probabilities: np.ndarray, labels: Sequence[str | None]) -> np.ndarray:
    """1 where the likeliest group of a text is its reference's label, else 0; float64 [n].

    probabilities [n, 28]. NaN where there is no such label: none was given, or it is neutral.
    """
    names = list(GROUPS)
    columns = [[GOEMOTIONS_LABELS.index(label) for label in GROUPS[name]] for name in names]
    if not len(labels):
        return np.empty(0)
    nearest = np.stack([probabilities[:, group].max(1) for group in columns], 1).argmax(1)
    return np.array(
        [
            float(names[found] == label) if label in GROUPS else np.nan
            for found, label in zip(nearest, labels, strict=True)
        ]
    )
