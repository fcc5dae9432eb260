"""What trainings moved, on cached samples of the model before them: what each gained, and what one gained over another.

Two worths of a sample: OWN, how much nearer it is in emotion to its exchange's reference than to those of others; and
USUAL, how near it is to those of others, which a reply that suits none in particular can win. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.metrics.emotion_score import FeatureScorer
from model.metrics.importance import concordance, effective_share, weighted_gain
from model.metrics.settings import BootstrapSettings
from model.metrics.verdict import verdict

OWN, USUAL = "own", "usual"
WORTHS = (OWN, USUAL)


@dataclass(frozen=True)
class Sampled:
    """The samples of one exchange. before: nats of each [n]; tokens [n]; worth: by OWN and USUAL, of each [n]."""

    dataset: str
    dialogue: Hashable
    before: Sequence[float]
    tokens: Sequence[int]
    worth: Mapping[str, Sequence[float]]


def worths(
    samples: Sequence[Sequence[str]],
    references: Sequence[str],
    datasets: Sequence[str],
    scorer: FeatureScorer,
) -> list[dict[str, np.ndarray]]:
    """Of each exchange its samples' worths [n] by OWN and USUAL, as emotion contrast and chance of a reply are defined.

    NaN where the dataset has no other reference. By hand: of cosine .5 to its own reference and .1 and .3 to the two
    others, a sample is worth .3 of its own and .2 of the usual.
    """
    texts = [text for row in samples for text in row]
    features = scorer.features([*texts, *references]).astype(np.float64)
    said, true = features[: len(texts)], features[len(texts) :]
    found: list[dict[str, np.ndarray]] = []
    start = 0
    sums = {d: true[[i for i, own in enumerate(datasets) if own == d]].sum(0) for d in set(datasets)}
    counts = {d: sum(own == d for own in datasets) for d in sums}
    for i, row in enumerate(samples):
        mine, start = said[start : start + len(row)], start + len(row)
        own = mine @ true[i]
        others = counts[datasets[i]] - 1
        usual = (mine @ sums[datasets[i]] - own) / others if others else np.full(len(row), np.nan)
        found.append({OWN: own - usual, USUAL: usual})
    return found


def moved(
    exchanges: Sequence[Sampled],
    after: Mapping[str, Sequence[Sequence[float]]],
    trained: str,
    intervals: BootstrapSettings,
) -> dict:
    """{"trainings": by name, "beside": by name of the others}.

    after: by training, of each exchange its samples' nats [n]; trained: the training that the others are controls of.
    Of each training, by worth: a verdict on the weighted gain; "effective_share", the mean; "concordance" in OWN, less
    one half, as a verdict. "beside": by worth, a verdict on `trained`'s gain less the other's, exchange by exchange.
    """
    gains = {
        name: {worth: _gains(exchanges, nats, worth) for worth in WORTHS} for name, nats in after.items()
    }
    dialogues = [exchange.dialogue for exchange in exchanges]

    def judged(values: np.ndarray) -> dict:
        known = ~np.isnan(values)
        kept = [dialogue for dialogue, there in zip(dialogues, known, strict=True) if there]
        return verdict(values[known], kept, intervals).as_dict()

    trainings = {
        name: {
            **{worth: judged(gains[name][worth]) for worth in WORTHS},
            "concordance": judged(_concordances(exchanges, nats) - 0.5),
            "effective_share": _effective(exchanges, nats),
        }
        for name, nats in after.items()
    }
    beside = {
        name: {worth: judged(gains[trained][worth] - gains[name][worth]) for worth in WORTHS}
        for name in after
        if name != trained and trained in after
    }
    return {"trainings": trainings, "beside": beside}


def moved_by_dataset(
    exchanges: Sequence[Sampled],
    after: Mapping[str, Sequence[Sequence[float]]],
    trained: str,
    intervals: BootstrapSettings,
) -> dict[str, dict]:
    """`moved`'s figures of each dataset alone, with its "exchanges", "dialogues" and "samples"; {} where there is one at most.

    What one dataset's replies show of their emotion another's may not, and together neither is told.
    """
    datasets = sorted({exchange.dataset for exchange in exchanges})
    found = {}
    for dataset in datasets if len(datasets) > 1 else ():
        places = [i for i, exchange in enumerate(exchanges) if exchange.dataset == dataset]
        alone = [exchanges[i] for i in places]
        nats = {name: [rows[i] for i in places] for name, rows in after.items()}
        found[dataset] = {**moved(alone, nats, trained, intervals), **sizes(alone)}
    return found


def sizes(exchanges: Sequence[Sampled]) -> dict[str, int]:
    """{"exchanges", "dialogues", "samples"}: how many there are."""
    return {
        "exchanges": len(exchanges),
        "dialogues": len({exchange.dialogue for exchange in exchanges}),
        "samples": sum(len(exchange.before) for exchange in exchanges),
    }


def _gains(exchanges: Sequence[Sampled], after: Sequence[Sequence[float]], worth: str) -> np.ndarray:
    """Of each exchange what the trained model's samples would be worth more. Nats are what likelihood is not."""
    return np.array(
        [
            weighted_gain(_negative(e.before), _negative(nats), e.worth[worth])
            for e, nats in zip(exchanges, after, strict=True)
        ]
    )


def _concordances(exchanges: Sequence[Sampled], after: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array(
        [
            concordance(_a_token(e.before, e.tokens), _a_token(nats, e.tokens), e.worth[OWN])
            for e, nats in zip(exchanges, after, strict=True)
        ]
    )


def _effective(exchanges: Sequence[Sampled], after: Sequence[Sequence[float]]) -> float | None:
    shares = [
        effective_share(_negative(e.before), _negative(nats))
        for e, nats in zip(exchanges, after, strict=True)
    ]
    return round(float(np.mean(shares)), 6) if shares else None


def _negative(nats: Sequence[float]) -> list[float]:
    return [-value for value in nats]


def _a_token(nats: Sequence[float], tokens: Sequence[int]) -> list[float]:
    return [-value / count for value, count in zip(nats, tokens, strict=True)]
