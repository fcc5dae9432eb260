"""Stage `pairs`: the least similar usable candidate of each exchange, where it is unlike enough, becomes its pair.

Exchanges without a pair go to the rejects with their reason and cosine. `pairs.quality` asks what else than emotion
tells the two replies apart; `pairs.control` draws another rejected reply at random. Knows nothing of models.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable

from model.candidates.settings import GENERATION_EMOTIONS
from model.metrics.dist import words
from model.pairs.quality import TextPair, pair_quality
from model.pairs.selection import (
    Choice,
    balanced,
    choose,
    choose_length_matched,
    share_below,
    threshold_in_force,
)
from model.pairs.settings import PairSettings, QualitySettings
from storage.draws import draw_number
from storage.errors import InputError
from storage.shards import reject_to_row
from storage.store import Ref, canonical
from storage.utterance import Reject
from tasks.engine.item import Workspace
from tasks.stages.shard_names import of_table, place, shard_name
from tasks.stages.shards import read_rows, row_key, write_rejects, write_shard

PAPER_THRESHOLD = PairSettings().threshold
COSINE_BINS = 40
"""Equal parts of -1 to 1 in which all usable candidates' cosines are counted."""


def choose_pairs(
    scores: list[Ref], exchanges: list[Ref], calibration: Ref | None, settings: PairSettings, work: Workspace
) -> list[Ref]:
    """Outputs: pairs/…, rejects/pairs, pairs.json (threshold in force, what was kept and why not)."""
    by_exchange = defaultdict(list)
    for row in read_rows(work.store, scores, "scores"):
        by_exchange[row_key(row)].append(row)
    _of_one_model(row["weights"] for rows in by_exchange.values() for row in rows)
    replies = {row_key(e): e for e in read_rows(work.store, exchanges, "exchanges")}
    equal_error = None
    if calibration is not None:
        equal_error = json.loads(work.store.read(calibration))["equal_error"]
    least = [_least(rows) for key, rows in by_exchange.items() if key[1] == "train"]
    threshold = threshold_in_force(
        least, settings.threshold, settings.fallback, settings.least_share, equal_error
    )
    kept, rejects = [], []
    for key, rows in sorted(by_exchange.items()):
        rows.sort(key=lambda row: GENERATION_EMOTIONS.index(row["emotion"]))
        choice = _choice(rows, replies[key]["reply"], threshold, settings)
        if choice.index is None:
            rejects.append(_turned_away(key, choice.reason, choice.cosine, threshold))
        else:
            kept.append(_pair(replies[key], rows[choice.index]))
    if settings.selection == "length_matched":
        kept, unmatched = _length_balanced(kept)
        rejects += [
            _turned_away(row_key(pair), "length_unmatched", pair["cosine"], threshold) for pair in unmatched
        ]
    shards = _shards_like(scores, kept, work)
    summary = _summary(threshold, equal_error, by_exchange, kept, rejects)
    summary |= {
        "set_threshold": settings.threshold,
        "train_share_at_set_threshold": round(share_below(least, settings.threshold), 6),
        "selection": settings.selection,
        **_shares(by_exchange, replies, kept, threshold),
    }
    return [
        *shards,
        write_rejects(work.store, "pairs", rejects),
        work.store.put_bytes("pairs.json", canonical(summary)),
    ]


def _of_one_model(weights: Iterable[str]) -> None:
    """InputError where candidates are of several models: a server's may change between runs, behind one name."""
    found = sorted(set(weights))
    if len(found) > 1:
        raise InputError(
            f"the candidates were written by more than one model ({', '.join(found)}): what the server serves has "
            "changed; run again with --force candidates to have all written by the one that answers now"
        )


def random_pairs(pairs: list[Ref], scores: list[Ref], settings: PairSettings, work: Workspace) -> list[Ref]:
    """The control: the same pairs, another usable candidate at random as the rejected reply. Outputs: pairs/…, and
    rejects/pairs.control, the exchanges that have no other usable one.

    Never the counter-emotional reply itself. Drawn from the exchange's key and `settings.seed`.
    """
    usable = defaultdict(list)
    for row in read_rows(work.store, scores, "scores"):
        if row["usable"]:
            usable[row_key(row)].append(row)
    drawn, rejects = [], []
    for pair in read_rows(work.store, pairs, "pairs"):
        key = row_key(pair)
        others = [row for row in usable[key] if row["text"] != pair["rejected"]]
        if others:
            candidate = random.Random(draw_number(settings.seed, "pairs.control", *key)).choice(others)
            drawn.append(_pair({**pair, "reply": pair["chosen"]}, candidate))
        else:
            rejects.append(
                reject_to_row(Reject(*key, reason="no_other_candidate", detail=""), "pairs.control")
            )
    shards = _shards_like(pairs, drawn, work, table="pairs")
    return [*shards, write_rejects(work.store, "pairs.control", rejects)]


def check_pairs(pairs: list[Ref], settings: QualitySettings, work: Workspace) -> list[Ref]:
    """Output: quality.json, what tells chosen from rejected replies besides emotion.

    Raises InputError where `settings.error` is set and length or style alone tells them above the bound.
    """
    texts = [
        TextPair("/".join(row_key(row)[:3]), row["sentence"], row["chosen"], row["rejected"])
        for row in read_rows(work.store, pairs, "pairs")
    ]
    facts = pair_quality(texts, settings)
    if facts["above"] and settings.error:
        told = " and ".join(f"{name} alone {facts['accuracy'][name]:.1%}" for name in facts["above"])
        raise InputError(
            f"the pairs can be told apart without their emotion: {told} of them ranked right, above "
            f"pairs.quality.bound {settings.bound:g}; try pairs.selection=length_matched or other candidates"
        )
    return [work.store.put_bytes("quality.json", canonical(facts))]


def _choice(rows: list[dict], reply: str, threshold: float, settings: PairSettings) -> Choice:
    cosines, usable = [_cosine(row) for row in rows], [row["usable"] for row in rows]
    if settings.selection == "least_similar":
        return choose(cosines, usable, threshold)
    lengths = [len(words(row["text"])) for row in rows]
    return choose_length_matched(cosines, usable, lengths, len(words(reply)), threshold)


def _length_balanced(pairs: list[dict]) -> tuple[list[dict], list[dict]]:
    """(pairs that stay, pairs that leave), each split balanced by itself."""
    stay, leave = [], []
    for split in sorted({pair["split"] for pair in pairs}):
        inside = [pair for pair in pairs if pair["split"] == split]
        gaps = [len(words(pair["rejected"])) - len(words(pair["chosen"])) for pair in inside]
        for pair, stays in zip(inside, balanced(gaps), strict=True):
            (stay if stays else leave).append(pair)
    return stay, leave


def _turned_away(key: tuple, reason: str, cosine: float | None, threshold: float) -> dict:
    detail = "" if cosine is None else f"cosine {cosine:.6f}, threshold {threshold:.6f}"
    return reject_to_row(Reject(*key, reason=reason, detail=detail), "pairs")


def _shards_like(refs: list[Ref], pairs: list[dict], work: Workspace, table: str = "scores") -> list[Ref]:
    """A shard of pairs for each shard of `table`, with the pairs of its exchanges."""
    shards = []
    for ref in of_table(refs, table):
        dataset, split = place(ref)
        keys = {row_key(row) for row in read_rows(work.store, [ref], table)}
        name = shard_name("pairs", dataset, split, int(ref.name.split("/")[-1]))
        shards.append(
            write_shard(work.store, "pairs", name, [pair for pair in pairs if row_key(pair) in keys])
        )
    return shards


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


def _summary(threshold: float, equal_error, by_exchange: dict, kept: list, rejects: list) -> dict:
    candidates = [row for rows in by_exchange.values() for row in rows]
    least = sorted(c for c in map(_least, by_exchange.values()) if c is not None)
    return {
        "paper_threshold": PAPER_THRESHOLD,
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
        "kept_at_paper_threshold": sum(c < PAPER_THRESHOLD for c in least),
    }


def _shares(by_exchange: dict, replies: dict, kept: list[dict], threshold: float) -> dict:
    """What is kept of each dataset, of true replies of each emotion, and of candidates of each emotion asked for;
    and how the cosines of all usable candidates lie."""
    pairs = {row_key(pair): pair["rejected_emotion"] for pair in kept}
    datasets: dict[str, Counter] = defaultdict(Counter)
    true: dict[str, Counter] = defaultdict(Counter)
    asked: dict[str, Counter] = {emotion: Counter() for emotion in GENERATION_EMOTIONS}
    counts = [0] * COSINE_BINS
    for key, rows in by_exchange.items():
        facts = {"exchanges": 1, "pairs": int(key in pairs)}
        datasets[key[0]].update(facts)
        true[replies[key]["reply_emotion"] or "none"].update(facts)
        for row in rows:
            usable = row["usable"]
            asked[row["emotion"]].update(
                candidates=1,
                usable=int(usable),
                below=int(usable and _cosine(row) < threshold),
                pairs=int(pairs.get(key) == row["emotion"]),
            )
            if usable:
                counts[min(COSINE_BINS - 1, max(0, int((_cosine(row) + 1) / 2 * COSINE_BINS)))] += 1
    return {
        "by_dataset": {name: dict(facts) for name, facts in sorted(datasets.items())},
        "by_reply_emotion": {name: dict(facts) for name, facts in sorted(true.items())},
        "by_asked_emotion": {name: dict(facts) for name, facts in asked.items() if facts},
        "cosine_counts": counts,
    }
