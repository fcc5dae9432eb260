"""Stage `utterances.exchanges`: utterance shards -> exchange shards, and which of them candidates are written for.

Knows nothing of raw data or of models.
"""

from __future__ import annotations

import hashlib
from collections import Counter

from pydantic import BaseModel, Field

from storage.exchanges import Exchange, cut_exchanges
from storage.shards import exchange_to_row, read_table, row_to_utterance
from storage.store import Ref, canonical
from tasks.shards import of_table, place, shard_name, write_shard
from tasks.stages.stage import Workspace


class SelectionSettings(BaseModel, frozen=True, extra="forbid"):
    """How many exchanges candidates are written for; None takes all. Not in the paper, which takes all."""

    train: int | None = Field(None, ge=1)
    dev: int | None = Field(None, ge=1)
    seed: int = 0


def smallest_hashed(exchanges: list[Exchange], count: int | None, seed: int) -> list[Exchange]:
    """The `count` exchanges of smallest seeded hash: one dialogue more moves at most a few."""
    if count is None or count >= len(exchanges):
        return exchanges
    return sorted(exchanges, key=lambda e: _hash(e, seed))[:count]


def _hash(exchange: Exchange, seed: int) -> bytes:
    return hashlib.blake2b(repr((seed, *exchange.key)).encode(), digest_size=16).digest()


def spread(exchanges: list[Exchange], count: int | None, seed: int) -> list[Exchange]:
    """`smallest_hashed` of each dataset, the count shared out evenly; what one cannot fill the others take."""
    if count is None:
        return exchanges
    by_dataset: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        by_dataset.setdefault(exchange.dataset, []).append(exchange)
    chosen, left = [], count
    for place_, inside in enumerate(sorted(by_dataset.values(), key=lambda e: (len(e), e[0].dataset))):
        share = left // (len(by_dataset) - place_)
        taken = smallest_hashed(inside, share, seed)
        left -= len(taken)
        chosen += taken
    return chosen


def write_exchanges(utterances: list[Ref], selection: SelectionSettings, work: Workspace) -> list[Ref]:
    """Outputs: exchanges/… beside each utterance shard, and exchanges.json with what fell out and was selected."""
    cut: dict[str, list[Exchange]] = {}
    fallen: dict[str, Counter] = {}
    for ref in of_table(utterances, "utterances"):
        rows = read_table(work.store.read(ref), "utterances")
        exchanges, reasons = cut_exchanges(row_to_utterance(row) for row in rows)
        cut[ref.name] = exchanges
        fallen.setdefault("/".join(place(ref)), Counter()).update(reasons)
    chosen: set[tuple] = set()
    for split, count in (("train", selection.train), ("dev", selection.dev)):
        of_split = [e for exchanges in cut.values() for e in exchanges if e.split == split]
        chosen |= {e.key for e in spread(of_split, count, selection.seed)}
    shards, selected = [], {}
    for name, exchanges in cut.items():
        _, dataset, split, bucket = name.split("/")
        shard = shard_name("exchanges", dataset, split, int(bucket))
        rows = [exchange_to_row(e, e.key in chosen) for e in exchanges]
        selected[shard] = sum(row["selected"] for row in rows)
        shards.append(write_shard(work.store, "exchanges", shard, rows))
    counts = {split: dict(sorted(reasons.items())) for split, reasons in sorted(fallen.items())}
    summary = canonical({"selected": selected, "fallen_out": counts})
    return [*shards, work.store.put_bytes("exchanges.json", summary)]
