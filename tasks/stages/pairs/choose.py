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
from storage.answers import Candidate, Pair
from storage.draws import draw_number
from storage.errors import InputError
from storage.exchanges import Exchange
from storage.shards import pair_to_row, reject_to_row, row_to_candidate, row_to_exchange, row_to_pair
from storage.store import Ref, canonical
from storage.utterance import Reject
from tasks.engine.item import Workspace
from tasks.stages.shard_names import of_table, place, shard_name
from tasks.stages.shards import RowKey, read_rows, row_key, write_rejects, write_shard

PAPER_THRESHOLD = PairSettings().threshold
COSINE_BINS = 40
"""Equal parts of -1 to 1 in which all usable candidates' cosines are counted."""

ByExchange = dict[RowKey, list[Candidate]]
"""Exchange's key -> its candidates."""


def choose_pairs(
    scores: list[Ref], exchanges: list[Ref], calibration: Ref | None, settings: PairSettings, work: Workspace
) -> list[Ref]:
    """Outputs: pairs/…, rejects/pairs, pairs.json (threshold in force, what was kept and why not)."""
    by_exchange: ByExchange = defaultdict(list)
    for row in read_rows(work.store, scores, "scores"):
        by_exchange[row_key(row)].append(row_to_candidate(row))
    _of_one_model(candidate.weights for candidates in by_exchange.values() for candidate in candidates)
    cut = {row_key(row): row_to_exchange(row)[0] for row in read_rows(work.store, exchanges, "exchanges")}
    equal_error = None
    if calibration is not None:
        equal_error = json.loads(work.store.read(calibration))["equal_error"]
    least = [_least(candidates) for key, candidates in by_exchange.items() if key[1] == "train"]
    threshold = threshold_in_force(
        least, settings.threshold, settings.fallback, settings.least_share, equal_error
    )
    kept, rejects = [], []
    for key, candidates in sorted(by_exchange.items()):
        candidates.sort(key=lambda candidate: GENERATION_EMOTIONS.index(candidate.emotion))
        choice = _choice(candidates, cut[key].reply, threshold, settings)
        if choice.index is None:
            rejects.append(_turned_away(key, choice.reason, choice.cosine, threshold))
        else:
            kept.append(_pair(cut[key].sentence, cut[key].reply, candidates[choice.index]))
    if settings.selection == "length_matched":
        kept, unmatched = _length_balanced(kept)
        rejects += [_turned_away(pair.key, "length_unmatched", pair.cosine, threshold) for pair in unmatched]
    shards = _shards_like(scores, kept, work)
    summary = _summary(threshold, equal_error, by_exchange, kept, rejects)
    summary |= {
        "set_threshold": settings.threshold,
        "train_share_at_set_threshold": round(share_below(least, settings.threshold), 6),
        "selection": settings.selection,
        **_shares(by_exchange, cut, kept, threshold),
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
    usable: ByExchange = defaultdict(list)
    for row in read_rows(work.store, scores, "scores"):
        if row["usable"]:
            usable[row_key(row)].append(row_to_candidate(row))
    drawn, rejects = [], []
    for pair in map(row_to_pair, read_rows(work.store, pairs, "pairs")):
        key = pair.key
        others = [candidate for candidate in usable[key] if candidate.text != pair.rejected]
        if others:
            candidate = random.Random(draw_number(settings.seed, "pairs.control", *key)).choice(others)
            drawn.append(_pair(pair.sentence, pair.chosen, candidate))
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
        TextPair("/".join(pair.key[:3]), pair.sentence, pair.chosen, pair.rejected)
        for pair in map(row_to_pair, read_rows(work.store, pairs, "pairs"))
    ]
    facts = pair_quality(texts, settings)
    if facts["above"] and settings.error:
        told = " and ".join(f"{name} alone {facts['accuracy'][name]:.1%}" for name in facts["above"])
        raise InputError(
            f"the pairs can be told apart without their emotion: {told} of them ranked right, above "
            f"pairs.quality.bound {settings.bound:g}; try pairs.selection=length_matched or other candidates"
        )
    return [work.store.put_bytes("quality.json", canonical(facts))]


def _choice(candidates: list[Candidate], reply: str, threshold: float, settings: PairSettings) -> Choice:
    cosines, usable = [_cosine(one) for one in candidates], [one.usable for one in candidates]
    if settings.selection == "least_similar":
        return choose(cosines, usable, threshold)
    lengths = [len(words(candidate.text)) for candidate in candidates]
    return choose_length_matched(cosines, usable, lengths, len(words(reply)), threshold)


def _length_balanced(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """(pairs that stay, pairs that leave), each split balanced by itself."""
    stay: list[Pair] = []
    leave: list[Pair] = []
    for split in sorted({pair.split for pair in pairs}):
        inside = [pair for pair in pairs if pair.split == split]
        gaps = [len(words(pair.rejected)) - len(words(pair.chosen)) for pair in inside]
        for pair, stays in zip(inside, balanced(gaps), strict=True):
            (stay if stays else leave).append(pair)
    return stay, leave


def _turned_away(key: RowKey, reason: str, cosine: float | None, threshold: float) -> dict:
    detail = "" if cosine is None else f"cosine {cosine:.6f}, threshold {threshold:.6f}"
    return reject_to_row(Reject(*key, reason=reason, detail=detail), "pairs")


def _shards_like(refs: list[Ref], pairs: list[Pair], work: Workspace, table: str = "scores") -> list[Ref]:
    """A shard of pairs for each shard of `table`, with the pairs of its exchanges."""
    shards = []
    for ref in of_table(refs, table):
        dataset, split = place(ref)
        keys = {row_key(row) for row in read_rows(work.store, [ref], table)}
        name = shard_name("pairs", dataset, split, int(ref.name.split("/")[-1]))
        inside = [pair_to_row(pair) for pair in pairs if pair.key in keys]
        shards.append(write_shard(work.store, "pairs", name, inside))
    return shards


def _cosine(candidate: Candidate) -> float:
    return 1.0 if candidate.cosine is None else candidate.cosine


def _least(candidates: list[Candidate]) -> float | None:
    return min((_cosine(candidate) for candidate in candidates if candidate.usable), default=None)


def _pair(sentence: str, chosen: str, rejected: Candidate) -> Pair:
    return Pair(*rejected.key, sentence, chosen, rejected.text, rejected.emotion, _cosine(rejected))


def _summary(
    threshold: float, equal_error, by_exchange: ByExchange, kept: list[Pair], rejects: list[dict]
) -> dict:
    candidates = [candidate for of_one in by_exchange.values() for candidate in of_one]
    least = sorted(c for c in map(_least, by_exchange.values()) if c is not None)
    return {
        "paper_threshold": PAPER_THRESHOLD,
        "threshold": threshold,
        "equal_error": equal_error,
        "exchanges": len(by_exchange),
        "candidates": len(candidates),
        "usable": sum(candidate.usable for candidate in candidates),
        "unusable": dict(sorted(Counter(c.reason for c in candidates if not c.usable).items())),
        "engines": sorted({candidate.engine for candidate in candidates}),
        "pairs": len(kept),
        "rejected_emotions": dict(sorted(Counter(pair.rejected_emotion for pair in kept).items())),
        "rejects": dict(sorted(Counter(r["reason"] for r in rejects).items())),
        "least_cosines": [round(c, 6) for c in least],
        "kept_at_paper_threshold": sum(c < PAPER_THRESHOLD for c in least),
    }


def _shares(by_exchange: ByExchange, cut: dict[RowKey, Exchange], kept: list[Pair], threshold: float) -> dict:
    """What is kept of each dataset, of true replies of each emotion, and of candidates of each emotion asked for;
    and how the cosines of all usable candidates lie."""
    pairs = {pair.key: pair.rejected_emotion for pair in kept}
    datasets: dict[str, Counter] = defaultdict(Counter)
    true: dict[str, Counter] = defaultdict(Counter)
    asked: dict[str, Counter] = {emotion: Counter() for emotion in GENERATION_EMOTIONS}
    counts = [0] * COSINE_BINS
    for key, candidates in by_exchange.items():
        facts = {"exchanges": 1, "pairs": int(key in pairs)}
        datasets[key[0]].update(facts)
        true[cut[key].reply_emotion or "none"].update(facts)
        for candidate in candidates:
            usable = candidate.usable
            asked[candidate.emotion].update(
                candidates=1,
                usable=int(usable),
                below=int(usable and _cosine(candidate) < threshold),
                pairs=int(pairs.get(key) == candidate.emotion),
            )
            if usable:
                counts[min(COSINE_BINS - 1, max(0, int((_cosine(candidate) + 1) / 2 * COSINE_BINS)))] += 1
    return {
        "by_dataset": {name: dict(facts) for name, facts in sorted(datasets.items())},
        "by_reply_emotion": {name: dict(facts) for name, facts in sorted(true.items())},
        "by_asked_emotion": {name: dict(facts) for name, facts in asked.items() if facts},
        "cosine_counts": counts,
    }
