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


def agreement_counts(probabilities: np.ndarray, labels: Sequence[str | None]) -> np.ndarray:
    """Of each text, for each of GROUPS in order: 1 where it is the reference's label, then 1 where it is and the text's
    likeliest group too; float64 [n, 12]. NaN where there is no such label: none was given, or it is neutral.

    probabilities [n, 28].
    """
    names = list(GROUPS)
    found = np.full((len(labels), 2 * len(names)), np.nan)
    if not len(labels):
        return found
    columns = [[GOEMOTIONS_LABELS.index(label) for label in GROUPS[name]] for name in names]
    nearest = np.stack([probabilities[:, group].max(1) for group in columns], 1).argmax(1)
    for row, (likeliest, label) in enumerate(zip(nearest, labels, strict=True)):
        if label in GROUPS:
            at = names.index(label)
            found[row] = 0.0
            found[row, [at, len(names) + at]] = 1.0, float(likeliest == at)
    return found


def agreement(sums: np.ndarray) -> float:
    """Of summed `agreement_counts`: the share met of each label that occurs, mean over labels, so that one emotion said
    to everything has one in as many as occur, however common its label is."""
    there, met = np.split(sums, 2)
    return float(np.mean(met[there > 0] / there[there > 0])) if there.any() else float("nan")
