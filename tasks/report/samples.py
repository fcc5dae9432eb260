"""Seeded examples for people: exchanges with all their candidates (figure 8), and replies side by side (figure 7).

Which ones are shown depends on the seed and the keys alone, never on how good they are. Knows nothing of HTML.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from storage.answers import Candidate, Pair, Reply
from storage.draws import draw_number
from storage.exchanges import Exchange
from storage.shards import (
    read_table,
    row_to_candidate,
    row_to_exchange,
    row_to_pair,
    row_to_reply,
    row_to_utterance,
)
from storage.store import Ref, Store
from storage.tables import KEY_COLUMNS
from tasks.report.counts import Artefacts, tables_of
from tasks.stages.shards import RowKey, row_key

EXAMPLES = 6
LINES = 4
"""Utterances before the sentence of a case study (figure 7)."""
SEED = 0


def candidate_examples(
    artefacts: Artefacts, store: Store, count: int = EXAMPLES, table: str = "scores", seed: int = SEED
) -> list[dict]:
    """Exchanges with sentence, true reply and every candidate; what became of the least similar one.

    table: "scores", or "candidates" where nothing is scored yet.
    """
    shards = tables_of(artefacts, table)
    keys = drawn(keys_of(shards, table, store), "candidates", count, seed)
    found: dict[RowKey, list[Candidate]] = {key: [] for key in keys}
    for row in rows_of(shards, table, set(keys), store):
        found[row_key(row)].append(row_to_candidate(row))
    rows = rows_of(tables_of(artefacts, "utterances.exchanges"), "exchanges", set(keys), store)
    exchanges = {row_key(row): row_to_exchange(row)[0] for row in rows}
    rows = rows_of(tables_of(artefacts, "pairs"), "pairs", set(keys), store)
    pairs = {row_key(row): row_to_pair(row) for row in rows}
    turned_away = {
        row_key(row): row["reason"]
        for ref in artefacts.get("pairs") or []
        if ref.name == "rejects/pairs"
        for row in read_table(store.read(ref), "rejects")
    }
    return [
        _candidate_example(exchanges[key], found[key], pairs.get(key), turned_away.get(key, ""))
        for key in keys
    ]


def _candidate_example(
    exchange: Exchange, candidates: list[Candidate], pair: Pair | None, turned_away: str
) -> dict:
    """turned_away: why the exchange has no pair."""
    return {
        **_place(exchange.key),
        "sentence": exchange.sentence,
        "reply": exchange.reply,
        "reply_emotion": exchange.reply_emotion,
        "outcome": "" if pair else turned_away,
        "candidates": [
            {
                "emotion": candidate.emotion or f"sample {candidate.sample + 1}",
                "text": candidate.text,
                "cosine": candidate.cosine,
                "usable": candidate.usable,
                "reason": candidate.reason,
                "chosen": pair is not None and candidate.usable and candidate.text == pair.rejected,
            }
            for candidate in sorted(candidates, key=_by_cosine)
        ],
    }


def reply_examples(artefacts: Artefacts, store: Store) -> list[dict]:
    """Exchanges that every rung answered, with what came before, the replies of all rungs, and of the systems that did,
    beside the true one."""
    shards = tables_of(artefacts, "replies")
    if not shards:
        return []
    common = set.intersection(*(set(keys_of([shard], "replies", store)) for shard in shards))
    keys = drawn(common, "replies")
    found: dict[RowKey, list[Reply]] = {key: [] for key in keys}
    for row in rows_of([*shards, *tables_of(artefacts, "systems")], "replies", set(keys), store):
        found[row_key(row)].append(row_to_reply(row))
    before = histories(artefacts, set(keys), LINES, store)
    return [_reply_example(found[key], before[key][:-1]) for key in keys]


def _reply_example(replies: list[Reply], history: list[tuple[str, str]]) -> dict:
    """All rungs' replies to one exchange, of which each holds the sentence and the reference."""
    first = replies[0]
    return {
        **_place(first.key),
        "history": history,
        "sentence": first.sentence,
        "reference": first.reference,
        "sentence_emotion": first.sentence_emotion,
        "reference_emotion": first.reference_emotion,
        "replies": [
            {"rung": reply.rung, "reply": reply.reply}
            for reply in sorted(replies, key=lambda reply: reply.rung)
        ],
    }


def histories(
    artefacts: Artefacts, keys: set[RowKey], lines: int, store: Store
) -> dict[RowKey, list[tuple[str, str]]]:
    """Exchange -> speaker and text of its sentence, and of the last `lines` utterances before it."""
    wanted = {key[:3] for key in keys}
    dialogues: dict[tuple, list[tuple[int, str, str]]] = {}
    for ref in tables_of(artefacts, "utterances"):
        if tuple(ref.name.split("/")[1:3]) not in {key[:2] for key in wanted}:
            continue
        for row in read_table(store.read(ref), "utterances"):
            utterance = row_to_utterance(row)
            if utterance.key[:3] in wanted:
                said = dialogues.setdefault(utterance.key[:3], [])
                said.append((utterance.turn, utterance.speaker, utterance.text))
    for said in dialogues.values():
        said.sort()
    found = {}
    for key in keys:
        before = [(speaker, text) for turn, speaker, text in dialogues.get(key[:3], ()) if turn <= key[3]]
        found[key] = before[-lines - 1 :]
    return found


def prompt_tokens(artefacts: Artefacts, store: Store) -> dict[str, float]:
    """Rung -> mean tokens of its prompts, of the rungs that counted them."""
    means = {}
    for shard in tables_of(artefacts, "replies"):
        rows = read_table(store.read(shard), "replies", ("rung", "prompt_tokens"))
        counted = [row["prompt_tokens"] for row in rows if row["prompt_tokens"] is not None]
        if counted:
            means[rows[0]["rung"]] = sum(counted) / len(counted)
    return means


def _by_cosine(candidate: Candidate) -> tuple:
    """Usable candidates by cosine, then the others."""
    cosine = 2.0 if candidate.cosine is None else candidate.cosine
    return (not candidate.usable, cosine, candidate.emotion or "", candidate.sample)


def _place(key: RowKey) -> dict:
    return dict(zip(KEY_COLUMNS, key, strict=True))


def drawn(keys: Iterable[RowKey], purpose: str, count: int = EXAMPLES, seed: int = SEED) -> list[RowKey]:
    """The `count` keys of smallest seeded hash."""
    return heapq.nsmallest(
        count, set(keys), key=lambda key: (draw_number(seed, "report.examples", purpose, *key), key)
    )


def keys_of(shards: list[Ref], table: str, store: Store) -> set[RowKey]:
    """The keys of all rows."""
    return {row_key(row) for ref in shards for row in read_table(store.read(ref), table, KEY_COLUMNS)}


def rows_of(shards: list[Ref], table: str, keys: set[RowKey], store: Store) -> list[dict]:
    """The rows of some keys; whole shards are held one at a time."""
    return [row for ref in shards for row in read_table(store.read(ref), table) if row_key(row) in keys]
