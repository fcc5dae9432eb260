"""Stage `pairs`: the least similar usable candidate of each exchange, where it is unlike enough, becomes its pair.

Exchanges without a pair go to the rejects with their reason and cosine. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict

from model.pairs.selection import choose, threshold_in_force
from model.pairs.settings import PairSettings
from storage.shards import reject_to_row
from storage.store import Ref, canonical
from storage.utterance import Reject
from tasks.shard_names import of_table, place, shard_name
from tasks.shards import read_rows, write_rejects, write_shard
from tasks.stages.stage import Workspace


def choose_pairs(
    scores: list[Ref], exchanges: list[Ref], calibration: Ref | None, settings: PairSettings, work: Workspace
) -> list[Ref]:
    """Outputs: pairs/…, rejects/pairs, pairs.json (threshold in force, what was kept and why not)."""
    by_exchange = defaultdict(list)
    for row in read_rows(work.store, scores, "scores"):
        by_exchange[_key(row)].append(row)
    replies = {_key(e): e for e in read_rows(work.store, exchanges, "exchanges")}
    equal_error = None
    if calibration is not None:
        equal_error = json.loads(work.store.read(calibration))["equal_error"]
    least = [_least(rows) for key, rows in by_exchange.items() if key[1] == "train"]
    threshold = threshold_in_force(
        least, settings.threshold, settings.fallback, settings.least_share, equal_error
    )
    kept, rejects = [], []
    for key, rows in sorted(by_exchange.items()):
        choice = choose([_cosine(r) for r in rows], [r["usable"] for r in rows], threshold)
        if choice.index is None:
            cosine = "" if choice.cosine is None else f"cosine {choice.cosine:.6f}, threshold {threshold:.6f}"
            rejects.append(reject_to_row(Reject(*key, reason=choice.reason, detail=cosine), "pairs"))
        else:
            kept.append(_pair(replies[key], rows[choice.index]))
    shards = []
    for ref in of_table(scores, "scores"):
        dataset, split = place(ref)
        bucket = int(ref.name.split("/")[-1])
        keys = {_key(row) for row in read_rows(work.store, [ref], "scores")}
        inside = [pair for pair in kept if _key(pair) in keys]
        shards.append(write_shard(work.store, "pairs", shard_name("pairs", dataset, split, bucket), inside))
    summary = _summary(settings.threshold, threshold, equal_error, by_exchange, kept, rejects)
    return [
        *shards,
        write_rejects(work.store, "pairs", rejects),
        work.store.put_bytes("pairs.json", canonical(summary)),
    ]


def _key(row: dict) -> tuple:
    return (row["dataset"], row["split"], row["dialogue_id"], row["turn"])


def _cosine(row: dict) -> float:
    return 1.0 if row["cosine"] is None else row["cosine"]


def _least(rows: list[dict]) -> float | None:
    return min((_cosine(row) for row in rows if row["usable"]), default=None)


def _pair(exchange: dict, candidate: dict) -> dict:
    columns = ("dataset", "split", "dialogue_id", "turn", "sentence")
    return {
        **{name: exchange[name] for name in columns},
        "chosen": exchange["reply"],
        "rejected": candidate["text"],
        "rejected_emotion": candidate["emotion"],
        "cosine": candidate["cosine"],
    }


def _summary(
    paper: float, threshold: float, equal_error, by_exchange: dict, kept: list, rejects: list
) -> dict:
    candidates = [row for rows in by_exchange.values() for row in rows]
    least = sorted(c for c in map(_least, by_exchange.values()) if c is not None)
    return {
        "paper_threshold": paper,
        "threshold": threshold,
        "equal_error": equal_error,
        "exchanges": len(by_exchange),
        "candidates": len(candidates),
        "usable": sum(row["usable"] for row in candidates),
        "unusable": dict(sorted(Counter(r["reason"] for r in candidates if not r["usable"]).items())),
        "engines": sorted({row["engine"] for row in candidates}),
        "pairs": len(kept),
        "rejected_emotions": dict(sorted(Counter(p["rejected_emotion"] for p in kept).items())),
        "rejects": dict(sorted(Counter(r["reason"] for r in rejects).items())),
        "least_cosines": [round(c, 6) for c in least],
        "kept_at_paper_threshold": sum(c < paper for c in least),
    }
