"""Stage `metrics`: the replies of every rung -> BERTScore, EmotionScore and Dist-1 (section 4.4), with intervals.

Beside the paper's figures: emotion contrast, which is EmotionScore less chance; floors, which are systems that read
nothing; what each rung adds to the one before it; and how alike the two emotion scorers are. Intervals resample
dialogues. Knows nothing of how a figure is computed (model/metrics) or shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from model.metrics.bertscore import bert_score
from model.metrics.bootstrap import bootstrap
from model.metrics.dist import dist1_corpus, dist1_per_reply, words
from model.metrics.donors import donors
from model.metrics.emotion_score import emotion_contrasts, emotion_scores
from model.metrics.settings import BootstrapSettings
from model.metrics.verdict import LEARNED, verdict
from model.scorer.scorer import EmotionScorer
from model.scorer.settings import ScorerSettings
from model.zoo.resolve import resolve
from storage.answers import Reply
from storage.shards import read_table, row_to_reply
from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import MetricSettings
from tasks.stages.replies.rungs import CONTROL_RUNGS, FULL_TEXT, LADDER, RUNGS
from tasks.stages.shard_names import of_table

ALL = "all"
SECOND = "_second"
"""Ends the names of figures by the scorer that took no part in choosing pairs."""
COMPARED = ("bertscore", "emotionscore", "emotionscore_second", "emotioncontrast", "emotioncontrast_second")
"""Figures in which rungs are compared reply by reply."""
OKAY = "Okay."
LEAST = {"dist1": 0.0, "bertscore": -1.0, "emotionscore": -1.0, "emotioncontrast": -2.0}
MOST = {"dist1": 1.0, "bertscore": 1.0, "emotionscore": 1.0, "emotioncontrast": 2.0}
"""What a figure can be: of very few dialogues an interval may reach beyond."""

Figures = dict[str, np.ndarray]
"""One value per reply, by figure; NaN where a reply has none."""


def measure_replies(
    replies: list[Ref],
    commonest: Ref | None,
    settings: MetricSettings,
    scoring: ScorerSettings,
    bertscore: Weights,
    scorer: Weights,
    second_scorer: Weights,
    work: Workspace,
) -> list[Ref]:
    """Output: metrics.json.

    "systems": a row per rung, and per floor, and dataset, and one over all. "steps": what each rung adds to the one
    before it. "scorers": how alike they are. "identical_to_previous": how alike neighbouring rungs reply.
    "controls": EPO beside each that was asked for. commonest: the commonest reply of train, a floor.
    """
    rungs = {
        ref.name.split("/")[-1]: [row_to_reply(row) for row in read_table(work.store.read(ref), "replies")]
        for ref in of_table(replies, "replies")
    }
    loaded = [EmotionScorer.load(weights.name, scoring) for weights in (scorer, second_scorer)]
    first, second = (Remembered(one.features) for one in loaded)
    ran = [(rung.name, rung.title, rungs[rung.name]) for rung in RUNGS if rung.name in rungs]
    common = None if commonest is None else json.loads(work.store.read(commonest))["reply"]
    answered = [*ran, *(floors(ran[0][2], common) if ran else [])]
    systems, measured = [], {}
    for done, (name, title, said) in enumerate(answered):
        figures = measured[name] = _figures(said, settings, resolve(bertscore.name), first, second)
        for dataset in (ALL, *sorted({reply.dataset for reply in said})):
            inside = [i for i, reply in enumerate(said) if dataset in (ALL, reply.dataset)]
            systems.append(
                {"rung": name, "system": title, **_row(dataset, said, inside, figures, settings.intervals)}
            )
        work.progress(done + 1, len(answered), {})
    keys = {name: [reply.key for reply in replies] for name, replies in rungs.items()}
    facts = {
        "systems": systems,
        "steps": steps(measured, keys, settings.intervals),
        "scorers": scorers_alike(rungs, measured, loaded[0].encoder == loaded[1].encoder),
        "identical_to_previous": identical_to_previous(rungs),
        "controls": {
            name: gain_beside_control(rung.name, measured, keys, settings.intervals)
            for name, rung in CONTROL_RUNGS.items()
            if rung.name in rungs
        },
    }
    return [work.store.put_bytes("metrics.json", canonical(facts), rows=len(systems))]


class Remembered:
    """A scorer's features, each distinct text computed once for all systems."""

    def __init__(self, features: Callable[[Sequence[str]], np.ndarray]):
        self._compute = features
        self._known: dict[str, np.ndarray] = {}

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, width]."""
        new = sorted(set(texts) - self._known.keys())
        if new:
            self._known.update(zip(new, self._compute(new), strict=True))
        return np.array([self._known[text] for text in texts])


def floors(answered: list[Reply], common: str | None) -> list[tuple[str, str, list[Reply]]]:
    """(name, title, replies) of systems that read nothing of an exchange: what any gain must be beyond.

    answered: the replies of any rung, which say what the exchanges are.
    """
    dialogues = [reply.key[:3] for reply in answered]
    given = donors(dialogues, [len(reply.reference) for reply in answered])
    people = [
        replace(reply, reply=answered[other].reference)
        for reply, other in zip(answered, given, strict=True)
        if other is not None
    ]
    found = [("floor-okay", f'always "{OKAY}"', [replace(reply, reply=OKAY) for reply in answered])]
    if common:
        title = "the commonest reply of train"
        found.append(("floor-commonest", title, [replace(reply, reply=common) for reply in answered]))
    if people:
        found.append(("floor-people", "a human reply of another dialogue", people))
    return found


def _figures(replies: list[Reply], settings: MetricSettings, folder, first, second) -> Figures:
    said, true = [reply.reply for reply in replies], [reply.reference for reply in replies]
    datasets = [reply.dataset for reply in replies]
    chosen = settings.bertscore
    found = {"bertscore": bert_score(said, true, folder, chosen.num_layers, chosen.batch_size).f1}
    for end, scorer in (("", first), (SECOND, second)):
        found[f"emotionscore{end}"] = emotion_scores(said, true, scorer)
        found[f"emotioncontrast{end}"] = emotion_contrasts(said, true, datasets, scorer)
    return {**found, "dist1": dist1_per_reply(said)}


def _row(
    dataset: str, replies: list[Reply], inside: list[int], figures: Figures, intervals: BootstrapSettings
) -> dict:
    said = [replies[i].reply for i in inside]
    dialogues = [replies[i].key[:3] for i in inside]
    row = {
        "dataset": dataset,
        "split": "+".join(sorted({replies[i].split for i in inside})),
        "n": len(inside),
        "dialogues": len(set(dialogues)),
        "dist1_corpus": round(dist1_corpus(said), 6),
        "reply_words": round(float(np.mean([len(words(text)) for text in said])), 3),
        "empty_replies": sum(not text for text in said),
    }
    for name, values in figures.items():
        known = [(values[i], of) for i, of in zip(inside, dialogues, strict=True) if not np.isnan(values[i])]
        found = bootstrap([value for value, _ in known], [of for _, of in known], intervals).interval
        row[name] = None if np.isnan(found.mean) else round(found.mean, 6) + 0.0  # none is "-0.0"
        # Of one dialogue there is no interval, which is not one of no width.
        kind = name.removesuffix(SECOND)
        ends = (max(LEAST[kind], found.low), min(MOST[kind], found.high))
        row[f"{name}_ci"] = None if np.isnan(found.low) else [round(end, 6) + 0.0 for end in ends]
    return row


def paired(
    measured: dict[str, Figures], keys: dict[str, list[tuple]], name: str, better: str, worse: str
) -> tuple[np.ndarray, list[tuple]]:
    """Differences in a figure between two rungs over the exchanges both answered, and the dialogue of each."""
    other = {key: value for key, value in zip(keys[worse], measured[worse][name], strict=True)}
    both = [
        (value - other[key], key[:3])
        for key, value in zip(keys[better], measured[better][name], strict=True)
        if key in other and not np.isnan(value) and not np.isnan(other[key])
    ]
    return np.array([difference for difference, _ in both]), [dialogue for _, dialogue in both]


def _gain(measured: dict, keys: dict, name: str, pair: tuple[str, str], intervals: BootstrapSettings) -> dict:
    return verdict(*paired(measured, keys, name, *pair), intervals).as_dict()


def steps(
    measured: dict[str, Figures], keys: dict[str, list[tuple]], intervals: BootstrapSettings
) -> list[dict]:
    """What each rung of the ladder adds to the one before it that ran: a verdict for each of COMPARED. Rung 4f, where
    it was asked for, is beside 4 and comes after it."""
    ran = [rung.name for rung in LADDER if rung.name in keys]
    pairs = list(zip(ran, ran[1:], strict=False))
    beside = FULL_TEXT.against
    if beside in ran and FULL_TEXT.name in keys:
        pairs.insert(ran.index(beside), (beside, FULL_TEXT.name))
    return [
        {
            "rung": after,
            "against": before,
            **{name: _gain(measured, keys, name, (after, before), intervals) for name in COMPARED},
        }
        for before, after in pairs
    ]


def gain_beside_control(
    control: str, measured: dict[str, Figures], keys: dict[str, list[tuple]], intervals: BootstrapSettings
) -> dict:
    """What EPO gains over the rung it continues, what the rung `control` gains, and the difference, each a verdict over
    the same replies.

    "shown": the difference in EmotionScore, by the scorer that took no part in selection, lies above zero.
    "exchange_shown": so does that in emotion contrast: it is this exchange's emotion, and not the usual one.
    """
    epo = next(rung.name for rung in LADDER if rung.epo)
    base = [rung.name for rung in LADDER if rung.name in keys and rung.mc and not rung.epo][-1]
    found: dict = {"base": base, "rung": epo, "control": control}
    pairs = {"epo": (epo, base), "control": (control, base), "difference": (epo, control)}
    for name in COMPARED:
        found[name] = {what: _gain(measured, keys, name, pair, intervals) for what, pair in pairs.items()}
    return {
        **found,
        "shown": found["emotionscore_second"]["difference"]["grade"] == LEARNED,
        "exchange_shown": found["emotioncontrast_second"]["difference"]["grade"] == LEARNED,
    }


def scorers_alike(rungs: dict[str, list[Reply]], measured: dict[str, Figures], same_encoder: bool) -> dict:
    """Pearson correlation of the two scorers' EmotionScores over this run's distinct replies; None of too few."""
    cosines = {
        (reply.reply, reply.reference): (
            measured[name]["emotionscore"][i],
            measured[name]["emotionscore_second"][i],
        )
        for name, replies in rungs.items()
        for i, reply in enumerate(replies)
    }
    pairs = np.array(list(cosines.values()))
    varied = len(pairs) > 2 and bool((pairs.std(0) > 0).all())
    correlation = round(float(np.corrcoef(pairs.T)[0, 1]), 4) if varied else None
    return {"correlation": correlation, "replies": len(pairs), "same_encoder": same_encoder}


def identical_to_previous(rungs: dict[str, list[Reply]]) -> dict[str, dict]:
    """Rung -> the rung it is compared with that ran, and the share of replies that are the same word for word."""
    ran = [r.name for r in LADDER if r.name in rungs]
    beside = [(r.against, r.name) for r in RUNGS if r.name in rungs and r.against in rungs]
    found = {}
    for before, after in [*zip(ran, ran[1:], strict=False), *beside]:
        pairs = list(zip(rungs[before], rungs[after], strict=True))
        same = sum(a.reply == b.reply for a, b in pairs)
        found[after] = {"rung": before, "share": round(same / len(pairs), 6)}
    return found
