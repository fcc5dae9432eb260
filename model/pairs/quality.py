"""Can chosen and rejected replies be told apart without reading them? Length, style, repetition, echo, overlap.

A preference model that may rank its pairs by length learns length. So two classifiers that see nothing else are
trained to tell chosen from rejected, by cross-validation: the better they do, the less a pair teaches about emotion.
Works on texts alone; knows nothing of cosines, shards or training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from model.draws import draw_number
from model.metrics.dist import words
from model.metrics.repetition import repeats
from model.pairs.settings import QualitySettings

FUNCTION_WORDS = (
    "a about all am an and any are as at be because been but by can could did do does don't for from get go going "
    "got had has have he her here him his how i i'd i'll i'm i've if in is isn't it it's just know like me my no not "
    "now of oh ok okay on one or our out really right she should so some that that's the them then there they this "
    "to too up us very was we we're well were what what's when where which who why will with would yeah yes you "
    "you're your"
).split()
"""Words that say how something is said rather than what."""

MARKS = ".,!?'’\"“”-–—…:;()*"
LENGTH_STEPS = (3, 5, 7, 10, 14, 19, 26)
"""Words at which the next class of length begins."""

ECHO = 4
"""Words in a row of the sentence that make a reply an echo of it; a repeated run of three is a repetition."""

_RIDGE = 1.0
_NEWTON_STEPS = 30


@dataclass(frozen=True)
class TextPair:
    """One pair. group: pairs of one group are never in training and test at once (a dialogue)."""

    group: str
    sentence: str
    chosen: str
    rejected: str


def pair_quality(pairs: Sequence[TextPair], settings: QualitySettings) -> dict:
    """Figures of the pairs as plain numbers; None where there are too few to say.

    "accuracy": share of held-out pairs that length alone, and style alone, rank right (0.5: they know nothing).
    "above": those of them above `settings.bound`.
    """
    accuracy = {
        "length": ranking_accuracy(pairs, length_features, settings.folds),
        "style": ranking_accuracy(pairs, style_features, settings.folds),
    }
    return {
        "pairs": len(pairs),
        "words": {side: _mean([len(words(t)) for t in texts]) for side, texts in _sides(pairs)},
        "longer": _mean([_gap(p) > 0 for p in pairs]),
        "shorter": _mean([_gap(p) < 0 for p in pairs]),
        "length_gap": _mean([abs(_gap(p)) for p in pairs]),
        "repetition": {side: _mean([repeats(words(t)) for t in texts]) for side, texts in _sides(pairs)},
        "echo": {
            "chosen": _mean([_echoes(p.sentence, p.chosen) for p in pairs]),
            "rejected": _mean([_echoes(p.sentence, p.rejected) for p in pairs]),
        },
        "overlap": _mean([_overlap(words(p.chosen), words(p.rejected)) for p in pairs]),
        "reused": _reused([p.rejected for p in pairs]),
        "accuracy": accuracy,
        "bound": settings.bound,
        "above": [name for name, share in accuracy.items() if share is not None and share > settings.bound],
    }


def length_features(text: str) -> list[float]:
    """What is known of a reply's length, float [10]: its class in words, and logarithms of words and letters."""
    count = len(words(text))
    steps = [float(count >= step) for step in LENGTH_STEPS]
    return [*steps, np.log1p(count), np.log1p(len(text)), float(count == 0)]


def style_features(text: str) -> list[float]:
    """Rates of function words and marks per word, which length does not move; capital first, mark at the end."""
    found = words(text)
    counted, per_word = Counter(found), 1 / max(1, len(found))
    rates = [counted[word] * per_word for word in FUNCTION_WORDS]
    marks = [text.count(mark) * per_word for mark in MARKS]
    return [*rates, *marks, float(text[:1].isupper()), float(text[-1:] in ".!?")]


def ranking_accuracy(
    pairs: Sequence[TextPair], features: Callable[[str], list[float]], folds: int
) -> float | None:
    """Share of pairs whose chosen reply scores higher, each judged by a model trained on the other folds.

    The score is linear in `features`, fitted by logistic regression on the difference of the two replies (Bradley
    and Terry 1952) with a ridge; equal scores count half. None with fewer than `folds` groups.
    """
    fold = np.array([_fold(pair.group, folds) for pair in pairs])
    if len({pair.group for pair in pairs}) < folds or len(set(fold)) < 2:
        return None
    chosen = np.array([features(pair.chosen) for pair in pairs])
    rejected = np.array([features(pair.rejected) for pair in pairs])
    scale = np.concatenate([chosen, rejected]).std(0)
    differences = (chosen - rejected) / np.where(scale > 0, scale, 1)
    right = np.empty(len(pairs))
    for held in sorted(set(fold)):
        weights = _fit(differences[fold != held])
        scores = differences[fold == held] @ weights
        right[fold == held] = np.where(np.abs(scores) < 1e-9, 0.5, scores > 0)
    return _mean(right)


def _fit(differences: np.ndarray) -> np.ndarray:
    """Weights float [d] that make differences float [n, d] positive: ridge logistic regression by Newton's method."""
    weights = np.zeros(differences.shape[1])
    for _ in range(_NEWTON_STEPS):
        wrong = 1 / (1 + np.exp(np.clip(differences @ weights, -30, 30)))
        gradient = differences.T @ wrong - _RIDGE * weights
        curvature = (differences * (wrong * (1 - wrong))[:, None]).T @ differences
        step = np.linalg.solve(curvature + _RIDGE * np.eye(len(weights)), gradient)
        weights += step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def _fold(group: str, folds: int) -> int:
    return draw_number(0, "pairs.quality.folds", group) % folds


def _sides(pairs: Sequence[TextPair]) -> list[tuple[str, list[str]]]:
    return [("chosen", [p.chosen for p in pairs]), ("rejected", [p.rejected for p in pairs])]


def _gap(pair: TextPair) -> int:
    """Words by which the rejected reply is longer."""
    return len(words(pair.rejected)) - len(words(pair.chosen))


def _echoes(sentence: str, reply: str) -> bool:
    """Whether `ECHO` words in a row, or all words of a shorter sentence, come back in the reply."""
    said, answered = words(sentence), words(reply)
    size = min(ECHO, len(said))
    runs = {tuple(said[at : at + size]) for at in range(len(said) - size + 1)}
    return size > 1 and any(tuple(answered[at : at + size]) in runs for at in range(len(answered) - size + 1))


def _overlap(first: list[str], second: list[str]) -> float:
    """Shared words over all words (Jaccard)."""
    union = set(first) | set(second)
    return len(set(first) & set(second)) / len(union) if union else 0.0


def _reused(texts: Sequence[str]) -> float | None:
    """Share of texts that stand in more than one pair."""
    counted = Counter(" ".join(words(text)) for text in texts)
    return _mean([counted[" ".join(words(text))] > 1 for text in texts])


def _mean(values: Sequence) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None
