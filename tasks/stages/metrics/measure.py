"""Stage `metrics`: the replies of every rung and system -> each metric of the catalogue (section 4.4), with intervals.

Beside them stand floors, which are systems that read nothing of the exchange they answer; what each rung adds to
the one before it; and how alike the two emotion scorers are. Intervals resample dialogues. Knows nothing of how a
figure is computed (model/metrics) or shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from model.metrics.bertscore import baseline, bert_score, signature
from model.metrics.bootstrap import Interval, bootstrap, bootstrap_of
from model.metrics.catalogue import METRICS, Answers, Likelihoods, Metric
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
from tasks.stages.floors import ALWAYS_OKAY, ANOTHERS, OKAY, replies_of_others
from tasks.stages.metrics.by_reply import EACH_REPLY, Figures, by_reply, each_reply
from tasks.stages.replies.rungs import CONTROL_RUNGS, FULL_TEXT, LADDER, RUNGS
from tasks.stages.shard_names import of_table

ALL = "all"
COMPARED = (*(metric.key for metric in METRICS if metric.steps or metric.control), "emotioncontrast")
"""Figures in which rungs are compared reply by reply."""

System = tuple[str, str, list[Reply]]
"""Name, title, replies."""


def measure_replies(
    replies: list[Ref],
    train: Ref | None,
    titles: dict[str, str],
    settings: MetricSettings,
    scoring: ScorerSettings,
    bertscore: Weights,
    scorer: Weights,
    second_scorer: Weights,
    work: Workspace,
) -> list[Ref]:
    """Outputs: metrics.json; by_reply.json, rungs' and systems' figures reply by reply, for whoever compares two runs; and
    by_reply.parquet, every reply of all of them and of the floors beside its figures, for people.

    "systems": a row per rung, per system, per floor, and dataset, and one over all. "steps": what each rung adds to the
    one before it; "over_floors", "over_systems": what the last one has over each floor and system. "scorers": how alike they are.
    "identical_to_previous": how alike neighbouring rungs reply. "controls": EPO beside each that was asked for.
    "bertscore": with what it was measured. "answered": how many exchanges each rung answered. train: the commonest
    reply of train and a sample of them, for floors. titles: of the systems that are no rung.
    """
    said_by = {
        ref.name.split("/")[-1]: [row_to_reply(row) for row in read_table(work.store.read(ref), "replies")]
        for ref in of_table(replies, "replies")
    }
    loaded = [EmotionScorer.load(weights.name, scoring) for weights in (scorer, second_scorer)]
    first, second = (Remembered(one) for one in loaded)
    said_in_train = {} if train is None else json.loads(work.store.read(train))
    ran: list[System] = [
        (rung.name, rung.title, said_by[rung.name]) for rung in RUNGS if rung.name in said_by
    ]
    rungs = {name: said for name, _, said in ran}
    # One that answered nothing has no figures; its own counts say so.
    others: list[System] = [
        (name, title, said_by[name]) for name, title in titles.items() if said_by.get(name)
    ]
    exchanges = list({reply.key: reply for _, _, said in ran for reply in said}.values())
    systems = [*ran, *others, *floors(exchanges, said_in_train, first)] if ran else []
    every = [reply for _, _, said in systems for reply in said]
    chosen = settings.bertscore
    work.progress(0, len(systems) + 1, {})
    f1 = bert_score(
        [reply.reply for reply in every],
        [reply.reference for reply in every],
        resolve(bertscore.name),
        chosen.num_layers,
        chosen.batch_size,
    ).f1
    zero = baseline(bertscore.name, chosen.num_layers)
    rows: list[dict] = []
    measured: dict[str, Figures] = {}
    start = 0
    for done, (name, title, said) in enumerate(systems):
        of_f1, start = f1[start : start + len(said)], start + len(said)
        answers = answers_of(said, first, second, of_f1, zero)
        figures = measured[name] = {m.key: m.measure(answers) for m in METRICS if m.of is not None}
        for dataset in (ALL, *sorted({reply.dataset for reply in said})):
            inside = [i for i, reply in enumerate(said) if dataset in (ALL, reply.dataset)]
            rows.append(
                {"rung": name, "system": title, **_row(dataset, said, inside, figures, settings.intervals)}
            )
        work.progress(done + 2, len(systems) + 1, {})
    keys = {name: [reply.key for reply in said] for name, _, said in systems}
    titled = {name: title for name, title, _ in systems}
    the_floors = [name for name in keys if name.startswith("floor-")]
    facts = {
        "systems": rows,
        "steps": steps(measured, {name: keys[name] for name in rungs}, settings.intervals),
        "over_floors": last_rung_over(the_floors, measured, keys, titled, settings.intervals),
        "over_systems": last_rung_over([name for name, *_ in others], measured, keys, titled, settings.intervals),
        "scorers": scorers_alike(rungs, measured, loaded[0].encoder == loaded[1].encoder, settings.intervals),
        "identical_to_previous": identical_to_previous(rungs),
        "bertscore": {"signature": signature(bertscore.name, chosen.num_layers), "weights": bertscore.identity,
                      "layer": chosen.num_layers, "rescaled_from": zero},
        "answered": answered_by(keys, list(rungs)),
        "controls": {
            name: gain_beside_control(rung.name, measured, keys, settings.intervals)
            for name, rung in CONTROL_RUNGS.items()
            if rung.name in rungs
        },
    }  # fmt: skip
    each = by_reply({name: said for name, _, said in (*ran, *others)}, measured)
    return [
        work.store.put_bytes("metrics.json", canonical(facts), rows=len(rows)),
        work.store.put_bytes("by_reply.json", canonical(each)),
        work.store.put_bytes(EACH_REPLY, each_reply(systems, measured), rows=len(every)),
    ]


class Remembered:
    """A scorer's features and probabilities, each distinct text computed once for all systems."""

    def __init__(self, scorer: EmotionScorer):
        self._scorer = scorer
        self._known: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, width]."""
        return self._of(texts, 0)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, 28]."""
        return self._of(texts, 1)

    def _of(self, texts: Sequence[str], which: int) -> np.ndarray:
        new = sorted(set(texts) - self._known.keys())
        if new:
            self._known.update(
                zip(new, zip(*self._scorer.features_and_probabilities(new), strict=True), strict=True)
            )
        return np.array([self._known[text][which] for text in texts])


def answers_of(
    said: list[Reply], first: Remembered, second: Remembered, f1: np.ndarray, zero: float | None
) -> Answers:
    """Replies as the catalogue takes them."""
    asked = ("reference_nats", "reference_tokens", "opposed_nats", "same_nats")
    likely = [[getattr(reply, name) for reply in said] for name in asked]
    return Answers(
        [reply.reply for reply in said],
        [reply.reference for reply in said],
        [reply.dataset for reply in said],
        [reply.reference_emotion for reply in said],
        first,
        second,
        f1,
        zero,
        Likelihoods(*(np.array([math.nan if v is None else v for v in values], float) for values in likely)),
    )


def floors(exchanges: list[Reply], train: dict, scorer: Remembered) -> list[System]:
    """Systems that read nothing of an exchange: what any gain must be beyond.

    exchanges: a reply to each that any rung answered. train: its commonest "reply", and "sample", some of its replies.
    A human reply of another dialogue is as long as the true one; that of the next exchange is of the same dialogue.
    """
    bare = [
        replace(r, reply="", reference_nats=None, reference_tokens=None, opposed_nats=None, same_nats=None)
        for r in exchanges
    ]
    found = [("floor-okay", ALWAYS_OKAY, [replace(reply, reply=OKAY) for reply in bare])]
    common, central = train.get("reply"), most_central(train.get("sample") or [], scorer)
    for name, title, text in (
        ("floor-commonest", "the commonest reply of train", common),
        ("floor-central", "the most central reply of train", central),
    ):
        if text:
            found.append((name, title, [replace(reply, reply=text) for reply in bare]))
    references = [reply.reference for reply in bare]
    others = replies_of_others(references, [reply.key[:3] for reply in bare])
    place = {reply.key: at for at, reply in enumerate(bare)}
    ordered = sorted(place)
    following = {
        a: references[place[b]] for a, b in zip(ordered, ordered[1:], strict=False) if a[:3] == b[:3]
    }
    for name, title, given in (
        ("floor-people", ANOTHERS, others),
        (
            "floor-next",
            "the human reply of the dialogue's next exchange",
            [following.get(r.key) for r in bare],
        ),
    ):
        people = [
            replace(reply, reply=text) for reply, text in zip(bare, given, strict=True) if text is not None
        ]
        if people:
            found.append((name, title, people))
    return found


def most_central(texts: Sequence[str], scorer: Remembered) -> str | None:
    """The text whose emotion features are nearest to all others' on average; of equals the first by its letters."""
    ordered = sorted(set(texts))
    if not ordered:
        return None
    mean = scorer.features(texts).mean(0)
    return ordered[int(np.argmax(np.round(scorer.features(ordered) @ mean, 6)))]


def answered_by(keys: dict[str, list[tuple]], rungs: list[str]) -> dict:
    """{"exchanges", "common", "by_rung"}: how many any rung answered, "common": how many all did, and each did."""
    sets = [set(keys[name]) for name in rungs]
    return {
        "exchanges": len(set().union(*sets)) if sets else 0,
        "common": len(set.intersection(*sets)) if sets else 0,
        "by_rung": {name: len(set(keys[name])) for name in rungs},
    }


def _row(
    dataset: str, replies: list[Reply], inside: list[int], figures: Figures, intervals: BootstrapSettings
) -> dict:
    """Figures of the replies `inside`: KEY, KEY_ci, and KEY_left_out where some have none."""
    said = [replies[i].reply for i in inside]
    dialogues = [replies[i].key[:3] for i in inside]
    row = {
        "dataset": dataset,
        "split": "+".join(sorted({replies[i].split for i in inside})),
        "n": len(inside),
        "dialogues": len(set(dialogues)),
        "empty_replies": sum(not text for text in said),
        "without_reference": sum(not replies[i].reference.strip() for i in inside),
    }
    for metric in METRICS:
        if metric.of is None:
            assert metric.of_texts is not None
            row[metric.key] = round(metric.of_texts(said), 6)
        elif metric.key in figures:
            row |= _figure(metric, figures[metric.key][inside], dialogues, intervals)
    return row


def _figure(metric: Metric, values: np.ndarray, dialogues: list[tuple], intervals: BootstrapSettings) -> dict:
    gone = np.isnan(values).reshape(len(values), -1).any(1)
    known, of = (
        values[~gone],
        [dialogue for dialogue, absent in zip(dialogues, gone, strict=True) if not absent],
    )
    found: Interval = (
        bootstrap(known, of, intervals).interval
        if metric.whole is None
        else bootstrap_of(known, of, metric.whole, intervals)
    )
    # Of one dialogue there is no interval, which is not one of no width.
    ends = (max(metric.low, found.low), min(metric.high, found.high))
    none = np.isnan(found.mean)
    return {
        metric.key: None if none else round(found.mean, 6) + 0.0,  # none is "-0.0"
        f"{metric.key}_ci": None if np.isnan(found.low) else [round(end, 6) + 0.0 for end in ends],
        **({f"{metric.key}_left_out": int(gone.sum())} if gone.any() else {}),
    }


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
            "left_out": {
                name: len(set(keys[name]) - (set(keys[after]) & set(keys[before])))
                for name in (after, before)
            },
            **{name: _gain(measured, keys, name, (after, before), intervals) for name in COMPARED},
        }
        for before, after in pairs
    ]


def last_rung_over(
    others: Sequence[str],
    measured: dict[str, Figures],
    keys: dict[str, list[tuple]],
    titles: dict[str, str],
    intervals: BootstrapSettings,
) -> list[dict]:
    """What the last rung of the ladder that ran has over each floor or system: a verdict for each of COMPARED, over the
    exchanges that both answered. "left_out": how many one of the two alone did."""
    ran = [rung.name for rung in LADDER if rung.name in keys]
    return [
        {
            "rung": ran[-1],
            "against": other,
            "system": titles[other],
            "left_out": len(set(keys[ran[-1]]) ^ set(keys[other])),
            **{name: _gain(measured, keys, name, (ran[-1], other), intervals) for name in COMPARED},
        }
        for other in others
        if ran
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


def scorers_alike(
    rungs: dict[str, list[Reply]],
    measured: dict[str, Figures],
    same_encoder: bool,
    intervals: BootstrapSettings,
) -> dict:
    """Pearson correlation of the two scorers' EmotionScores over this run's distinct replies; None of too few.

    "correlation_ci": its interval over the dialogues that the replies are of.
    """
    cosines = {
        (reply.reply, reply.reference): (
            measured[name]["emotionscore"][i],
            measured[name]["emotionscore_second"][i],
            reply.key[:3],
        )
        for name, replies in rungs.items()
        for i, reply in enumerate(replies)
    }
    known = [row for row in cosines.values() if not np.isnan(row[:2]).any()]
    pairs = np.array([row[:2] for row in known])
    varied = len(pairs) > 2 and bool((pairs.std(0) > 0).all())
    found = {"correlation": None, "correlation_ci": None, "replies": len(pairs), "same_encoder": same_encoder}
    if not varied:
        return found
    x, y = (pairs - pairs.mean(0)).T  # about their mean, so that no digits are lost
    sums = np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], 1)
    mean, low, high = bootstrap_of(sums, [row[2] for row in known], _correlation, intervals)
    ends = None if math.isnan(low) else [round(max(-1.0, low), 4), round(min(1.0, high), 4)]
    return {**found, "correlation": round(mean, 4), "correlation_ci": ends}


def _correlation(sums: np.ndarray) -> float:
    """Pearson's, of n and the sums of x, y, x², y² and xy; NaN where one of them does not vary."""
    n, x, y, xx, yy, xy = sums
    spread = (n * xx - x * x) * (n * yy - y * y)
    return float((n * xy - x * y) / math.sqrt(spread)) if spread > 0 else math.nan


def identical_to_previous(rungs: dict[str, list[Reply]]) -> dict[str, dict]:
    """Rung -> the rung it is compared with that ran, and the share of replies that are the same word for word."""
    ran = [r.name for r in LADDER if r.name in rungs]
    beside = [(r.against, r.name) for r in RUNGS if r.name in rungs and r.against in rungs]
    found = {}
    for before, after in [*zip(ran, ran[1:], strict=False), *beside]:
        other = {reply.key: reply.reply for reply in rungs[before]}
        both = [(other[reply.key], reply.reply) for reply in rungs[after] if reply.key in other]
        same = sum(a == b for a, b in both)
        found[after] = {"rung": before, "share": round(same / len(both), 6) if both else None}
    return found
