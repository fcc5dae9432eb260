"""Stage `pairs`: the least similar usable candidate of each exchange, where it is unlike enough, is rejected in its pair.

Chosen is the true reply, or the most similar candidate. Exchanges without a pair go to the rejects with their reason
and cosine. `pairs.quality` asks what else than emotion tells the two replies apart; `pairs.random`,
`pairs.most_similar` and `pairs.shuffled` are the same exchanges' pairs chosen otherwise. Knows nothing of models.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from model.candidates.settings import GENERATION_EMOTIONS
from model.metrics.dist import words
from model.pairs.quality import TextPair, pair_quality
from model.pairs.selection import (
    Choice,
    balanced,
    choose,
    choose_length_matched,
    most_similar,
    share_below,
    threshold_in_force,
)
from model.pairs.settings import PairSettings, QualitySettings, stage_name
from model.scorer.settings import ScorerSettings
from storage.answers import Candidate, Pair
from storage.draws import draw_number
from storage.errors import InputError
from storage.exchanges import Exchange
from storage.shards import pair_to_row, reject_to_row, row_to_candidate, row_to_exchange, row_to_pair
from storage.store import Ref, canonical
from storage.utterance import Reject
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.shard_names import of_table, place, shard_name
from tasks.stages.shards import RowKey, read_rows, row_key, write_rejects, write_shard
from tasks.stages.similarity import cosines

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
        candidates.sort(key=_in_order)
        found = _pair_of(cut[key], candidates, threshold, settings)
        if isinstance(found, Choice):
            rejects.append(_turned_away(key, found.reason, found.cosine, threshold))
        else:
            kept.append(found)
    if settings.selection == "length_matched":
        kept, unmatched = _length_balanced(kept)
        rejects += [_turned_away(pair.key, "length_unmatched", pair.cosine, threshold) for pair in unmatched]
    shards = _shards_like(scores, kept, work)
    summary = _summary(threshold, equal_error, by_exchange, kept, rejects)
    summary |= {
        "set_threshold": settings.threshold,
        "train_share_at_set_threshold": round(share_below(least, settings.threshold), 6),
        "selection": settings.selection,
        "chosen": settings.chosen,
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


def control_pairs(
    control: Literal["random", "most_similar"],
    pairs: list[Ref],
    scores: list[Ref],
    settings: PairSettings,
    work: Workspace,
) -> list[Ref]:
    """The same pairs with another usable candidate as the rejected reply: one at random, or the most similar one.

    Outputs: pairs/…, and rejects/pairs.…, the exchanges that have no other usable one. Never what the pair has
    already. Drawn from the exchange's key and `settings.seed`.
    """
    usable = _usable(scores, work)
    drawn, rejects = [], []
    for pair in map(row_to_pair, read_rows(work.store, pairs, "pairs")):
        key = pair.key
        others = [one for one in usable[key] if one.text not in (pair.rejected, pair.chosen)]
        if not others:
            rejects.append(_lone(key, control))
        elif control == "random":
            candidate = random.Random(draw_number(settings.seed, "pairs.control", *key)).choice(others)
            drawn.append(_with_rejected(pair, candidate))
        else:
            # Of equal cosines the first, as everywhere.
            drawn.append(_with_rejected(pair, max(others, key=_cosine)))
    shards = _shards_like(pairs, drawn, work, table="pairs")
    return [*shards, write_rejects(work.store, stage_name("pairs", control), rejects)]


def shuffled_pairs(
    pairs: list[Ref],
    scores: list[Ref],
    settings: PairSettings,
    scoring: ScorerSettings,
    scorer: Weights,
    work: Workspace,
) -> list[Ref]:
    """The same exchanges, their pairs chosen by another exchange's true reply. Outputs: pairs/…, rejects/pairs.shuffled.

    The rule is that of `pairs`, but that a pair stands whatever its cosine is, which is to the other's reply: rejected
    is what is least like that, and chosen, where a candidate is, what is most like it. A true reply that is chosen
    stays the exchange's own. The other exchange is of the same dataset and split and of another dialogue.
    """
    usable = _usable(scores, work)
    own = [row_to_pair(row) for row in read_rows(work.store, pairs, "pairs")]
    threshold = json.loads(work.store.read(next(ref for ref in pairs if ref.name == "pairs.json")))[
        "threshold"
    ]
    given = other_replies([(pair.key, pair.reply) for pair in own], settings.seed)
    compared = [
        (candidate.text, given[pair.key])
        for pair in own
        if pair.key in given
        for candidate in usable[pair.key]
    ]
    similar = dict(zip(compared, cosines(compared, scorer.name, scoring, work), strict=True))
    drawn, rejects = [], []
    for pair in own:
        found = None
        if pair.key in given:
            found = _by_reference(
                pair,
                [replace(one, cosine=similar[one.text, given[pair.key]]) for one in usable[pair.key]],
                threshold,
                settings,
            )
        if found is None:
            rejects.append(_lone(pair.key, "shuffled"))
        else:
            drawn.append(found)
    shards = _shards_like(pairs, drawn, work, table="pairs")
    return [*shards, write_rejects(work.store, "pairs.shuffled", rejects)]


def other_replies(replies: Sequence[tuple[RowKey, str]], seed: int) -> dict[RowKey, str]:
    """Key -> the true reply of another exchange, of another dialogue and in other words; none where there is no such.

    Exchanges stand in a ring by their seeded hashes, and each is given the next one's: a dialogue that is added moves
    few. It is one of the same dataset and split, or where none will do, of any.
    """
    ring = sorted(replies, key=lambda one: (draw_number(seed, "pairs.shuffled", *one[0]), one[0]))
    near: dict[tuple, list[tuple[RowKey, str]]] = defaultdict(list)
    for key, reply in ring:
        near[key[:2]].append((key, reply))
    found = {}
    for key, reply in replies:
        other = _next_other(near[key[:2]], key, reply) or _next_other(ring, key, reply)
        if other is not None:
            found[key] = other
    return found


def _next_other(ring: Sequence[tuple[RowKey, str]], key: RowKey, reply: str) -> str | None:
    at = ring.index((key, reply))
    after = (ring[(at + step) % len(ring)] for step in range(1, len(ring)))
    return next((r for k, r in after if k[:3] != key[:3] and words(r) != words(reply)), None)


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
        predictors = " and ".join(f"{name} alone {facts['accuracy'][name]:.1%}" for name in facts["above"])
        raise InputError(
            f"the pairs can be told apart without their emotion: {predictors} of them ranked right, above "
            f"pairs.quality.bound {settings.bound:g}; try pairs.selection=length_matched or other candidates"
        )
    return [work.store.put_bytes("quality.json", canonical(facts))]


def _pair_of(
    exchange: Exchange, candidates: list[Candidate], threshold: float, settings: PairSettings
) -> Pair | Choice:
    """The exchange's pair, or the choice that says why it has none."""
    place_ = (exchange.dataset, exchange.split, exchange.dialogue_id, exchange.turn)
    pair = Pair(*place_, exchange.sentence, exchange.reply, exchange.reply, "", None, 0.0)
    top = _preferred(candidates, settings)
    choice = _choice(candidates, top, exchange.reply, threshold, settings)
    if choice.index is None:
        return choice
    return _with_rejected(_with_chosen(pair, top), candidates[choice.index])


def _by_reference(
    pair: Pair, candidates: list[Candidate], threshold: float, settings: PairSettings
) -> Pair | None:
    """As `_pair_of`, and where nothing is below the threshold the least similar one; None without two to rank."""
    top = _preferred(candidates, settings)
    choice = _choice(candidates, top, pair.reply, threshold, settings)
    if choice.index is None:
        choice = _choice(candidates, top, pair.reply, math.inf, settings)
    return None if choice.index is None else _with_rejected(_with_chosen(pair, top), candidates[choice.index])


def _preferred(candidates: list[Candidate], settings: PairSettings) -> Candidate | None:
    """The candidate that is chosen; None where that is the true reply, or none is usable."""
    if settings.chosen == "human":
        return None
    best = most_similar([_cosine(one) for one in candidates], [one.usable for one in candidates])
    return None if best is None else candidates[best]


def _choice(
    candidates: list[Candidate],
    preferred: Candidate | None,
    reply: str,
    threshold: float,
    settings: PairSettings,
) -> Choice:
    """Which candidate is rejected. reply: what is chosen where no candidate is `preferred`, which is never rejected."""
    found = [_cosine(one) for one in candidates]
    usable = [one.usable and one is not preferred for one in candidates]
    if preferred is not None and not any(usable):
        return Choice(None, None, "no_other_candidate")
    if settings.selection == "least_similar":
        return choose(found, usable, threshold)
    lengths = [len(words(candidate.text)) for candidate in candidates]
    wanted = len(words(reply if preferred is None else preferred.text))
    return choose_length_matched(found, usable, lengths, wanted, threshold)


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


def _with_chosen(pair: Pair, preferred: Candidate | None) -> Pair:
    if preferred is None:
        return pair
    return replace(pair, chosen=preferred.text, chosen_cosine=preferred.cosine)


def _with_rejected(pair: Pair, rejected: Candidate) -> Pair:
    return replace(pair, rejected=rejected.text, rejected_emotion=rejected.emotion, cosine=_cosine(rejected))


def _usable(scores: list[Ref], work: Workspace) -> ByExchange:
    found: ByExchange = defaultdict(list)
    for row in read_rows(work.store, scores, "scores"):
        if row["usable"]:
            found[row_key(row)].append(row_to_candidate(row))
    return found


def _lone(key: RowKey, control: str) -> dict:
    return reject_to_row(Reject(*key, reason="no_other_candidate", detail=""), stage_name("pairs", control))


def _in_order(candidate: Candidate) -> tuple[int, int]:
    """By the emotions' own order, samples by number: of equal cosines the first counts."""
    place = -1 if candidate.emotion is None else GENERATION_EMOTIONS.index(candidate.emotion)
    return (place, candidate.sample)


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
        "sources": sorted({candidate.source for candidate in candidates}),
        "pairs": len(kept),
        "rejected_emotions": dict(
            sorted(Counter(pair.rejected_emotion for pair in kept if pair.rejected_emotion).items())
        ),
        "rejects": dict(sorted(Counter(r["reason"] for r in rejects).items())),
        "least_cosines": [round(c, 6) for c in least],
        "kept_at_paper_threshold": sum(c < PAPER_THRESHOLD for c in least),
    }


def _shares(by_exchange: ByExchange, cut: dict[RowKey, Exchange], kept: list[Pair], threshold: float) -> dict:
    """What is kept of each dataset, of true replies of each emotion, and of candidates of each emotion asked for;
    and how the cosines of all usable candidates lie."""
    pairs = {pair.key: pair.rejected for pair in kept}
    datasets: dict[str, Counter] = defaultdict(Counter)
    true: dict[str, Counter] = defaultdict(Counter)
    by_emotion: dict[str, Counter] = {emotion: Counter() for emotion in GENERATION_EMOTIONS}
    counts = [0] * COSINE_BINS
    for key, candidates in by_exchange.items():
        facts = {"exchanges": 1, "pairs": int(key in pairs)}
        datasets[key[0]].update(facts)
        true[cut[key].reply_emotion or "none"].update(facts)
        for candidate in candidates:
            usable = candidate.usable
            if candidate.emotion is not None:
                by_emotion[candidate.emotion].update(
                    candidates=1,
                    usable=int(usable),
                    below=int(usable and _cosine(candidate) < threshold),
                    pairs=int(usable and pairs.get(key) == candidate.text),
                )
            if usable:
                counts[min(COSINE_BINS - 1, max(0, int((_cosine(candidate) + 1) / 2 * COSINE_BINS)))] += 1
    return {
        "by_dataset": {name: dict(facts) for name, facts in sorted(datasets.items())},
        "by_reply_emotion": {name: dict(facts) for name, facts in sorted(true.items())},
        "by_asked_emotion": {name: dict(facts) for name, facts in by_emotion.items() if facts},
        "cosine_counts": counts,
    }
