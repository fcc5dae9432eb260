"""Stage `metrics`: the replies of every rung -> BERTScore, EmotionScore and Dist-1 (section 4.4), with intervals.

Knows nothing of how a figure is computed (model/metrics) or shown.
"""

from __future__ import annotations

import numpy as np

from model.metrics.bertscore import bert_score
from model.metrics.bootstrap import bootstrap_mean
from model.metrics.dist import dist1_corpus, dist1_per_reply, words
from model.metrics.emotion_score import emotion_scores
from model.scorer.scorer import EmotionScorer
from model.scorer.settings import ScorerSettings
from model.zoo.resolve import resolve
from storage.shards import read_table
from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.settings import MetricSettings
from tasks.stages.replies.rungs import CONTROL, LADDER, RUNGS
from tasks.stages.shard_names import of_table

ALL = "all"


def measure_replies(
    replies: list[Ref],
    settings: MetricSettings,
    scoring: ScorerSettings,
    bertscore: Weights,
    scorer: Weights,
    second_scorer: Weights,
    work: Workspace,
) -> list[Ref]:
    """Output: metrics.json, a row per rung and dataset and one over all; and how alike neighbouring rungs reply."""
    rungs = {
        ref.name.split("/")[-1]: read_table(work.store.read(ref), "replies")
        for ref in of_table(replies, "replies")
    }
    scorers = {
        "emotionscore": EmotionScorer.load(scorer.name, scoring),
        "emotionscore_second": EmotionScorer.load(second_scorer.name, scoring),
    }
    systems, measured = [], {}
    for done, rung in enumerate(r for r in RUNGS if r.name in rungs):
        rows = rungs[rung.name]
        figures = measured[rung.name] = _figures(rows, settings, resolve(bertscore.name), scorers)
        for dataset in (ALL, *sorted({row["dataset"] for row in rows})):
            inside = [i for i, row in enumerate(rows) if dataset in (ALL, row["dataset"])]
            systems.append(
                {"rung": rung.name, "system": rung.title, **_row(dataset, rows, inside, figures, settings)}
            )
        work.progress(done + 1, len(rungs), {})
    facts = {"systems": systems, "identical_to_previous": identical_to_previous(rungs)}
    if CONTROL.name in rungs:
        facts["control"] = gain_beside_control(measured, settings)
    return [work.store.put_bytes("metrics.json", canonical(facts), rows=len(systems))]


def _figures(rows: list[dict], settings: MetricSettings, folder, scorers: dict) -> dict[str, np.ndarray]:
    """One value per reply and figure."""
    said, true = [row["reply"] for row in rows], [row["reference"] for row in rows]
    chosen = settings.bertscore
    return {
        "bertscore": bert_score(said, true, folder, chosen.num_layers, chosen.batch_size).f1,
        **{name: emotion_scores(said, true, scorer) for name, scorer in scorers.items()},
        "dist1": dist1_per_reply(said),
    }


def _row(dataset: str, rows: list[dict], inside: list[int], figures: dict, settings: MetricSettings) -> dict:
    said = [rows[i]["reply"] for i in inside]
    row = {
        "dataset": dataset,
        "split": "+".join(sorted({rows[i]["split"] for i in inside})),
        "n": len(inside),
        "dist1_corpus": round(dist1_corpus(said), 6),
        "reply_words": round(float(np.mean([len(words(text)) for text in said])), 3),
        "empty_replies": sum(not text for text in said),
    }
    for name, values in figures.items():
        interval = bootstrap_mean(values[inside], settings.intervals)
        row[name] = round(interval.mean, 6)
        row[f"{name}_ci"] = [round(interval.low, 6), round(interval.high, 6)]
    return row


def gain_beside_control(measured: dict[str, dict[str, np.ndarray]], settings: MetricSettings) -> dict:
    """What EPO gains over the rung it continues, what it gains on random replies, and the difference, each as
    [mean, low, high] over the same replies.

    "shown": the difference in EmotionScore, by the scorer that took no part in selection, lies above zero.
    """
    epo = next(rung.name for rung in LADDER if rung.epo)
    base = [rung.name for rung in LADDER if rung.name in measured and rung.mc and not rung.epo][-1]
    found: dict = {"base": base, "rung": epo, "control": CONTROL.name}
    for name in ("emotionscore", "emotionscore_second", "bertscore"):
        values = {rung: measured[rung][name] for rung in (base, epo, CONTROL.name)}
        found[name] = {
            "epo": _interval(values[epo] - values[base], settings),
            "random": _interval(values[CONTROL.name] - values[base], settings),
            "difference": _interval(values[epo] - values[CONTROL.name], settings),
        }
    return {**found, "shown": found["emotionscore_second"]["difference"][1] > 0}


def _interval(values: np.ndarray, settings: MetricSettings) -> list[float]:
    return [round(float(value), 6) for value in bootstrap_mean(values, settings.intervals)]


def identical_to_previous(rungs: dict[str, list[dict]]) -> dict[str, dict]:
    """Rung -> the rung before it that ran, and the share of replies that are the same word for word."""
    ran = [r.name for r in RUNGS if r.name in rungs]
    found = {}
    for before, after in zip(ran, ran[1:], strict=False):
        pairs = list(zip(rungs[before], rungs[after], strict=True))
        same = sum(a["reply"] == b["reply"] for a, b in pairs)
        found[after] = {"rung": before, "share": round(same / len(pairs), 6)}
    return found
