"""Shards in the store: reading and writing them by the names of shard_names.

A stage's rejects are named "rejects/DATASET". Knows nothing of what the rows mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from storage.shards import bucket_count, bucket_of, read_table, write_table
from storage.store import Ref, Store, canonical, digest_bytes
from storage.tables import VIEWS
from tasks.stages.shard_names import of_table, shard_name


def read_rows(store: Store, refs: Iterable[Ref], table: str, *splits: str) -> list[dict]:
    """All rows of a table's shards, of some splits where given; of a view, its columns."""
    return [
        row
        for ref in of_table(refs, table, *splits)
        for row in read_table(store.read(ref), table, VIEWS[table][ref.view] if ref.view else None)
    ]


RowKey = tuple[str, str, str, int]
"""(dataset, split, dialogue id, turn): which exchange or utterance a row is of, in every table."""


def row_key(row: dict) -> RowKey:
    return (row["dataset"], row["split"], row["dialogue_id"], row["turn"])


def dialogue_keys(rows: Iterable[dict]) -> set[tuple[str, str, str]]:
    """(dataset, split, dialogue id) of every row."""
    return {(row["dataset"], row["split"], row["dialogue_id"]) for row in rows}


def write_shard(store: Store, table: str, name: str, rows: list[dict], rejects: int = 0) -> Ref:
    views = {view: _digest(rows, columns) for view, columns in VIEWS.get(table, {}).items()}
    return store.put_bytes(name, write_table(rows, table), rows=len(rows), rejects=rejects, views=views)


def _digest(rows: list[dict], columns: tuple[str, ...]) -> str:
    """Digest of some columns of the rows, the key among them, in the key's order."""
    return digest_bytes(canonical(sorted([row.get(name) for name in columns] for row in rows)))


def write_buckets(
    store: Store, table: str, rows: list[dict], per_bucket: int, progress: Callable[[int, int], None]
) -> list[Ref]:
    """Rows spread over their dialogues' buckets. A dataset's number of buckets is fixed when it is first seen.

    progress(rows written, of how many) after each shard.
    """
    by_split: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for row in rows:
        by_split[row["dataset"], row["split"]].append(row)
    written, done = [], 0
    for (dataset, split), members in sorted(by_split.items()):
        buckets = store.fixed(f"buckets/{dataset}/{split}", bucket_count(len(members), per_bucket))
        by_bucket: dict[int, list[dict]] = defaultdict(list)
        for row in members:
            by_bucket[bucket_of(dataset, split, row["dialogue_id"], buckets)].append(row)
        for bucket, inside in sorted(by_bucket.items()):
            written.append(write_shard(store, table, shard_name(table, dataset, split, bucket), inside))
            done += len(inside)
            progress(done, len(rows))
    return written


def write_rejects(store: Store, name: str, rows: list[dict]) -> Ref:
    """A stage's rejects; written even when empty, so their absence is never ambiguous."""
    return store.put_bytes(f"rejects/{name}", write_table(rows, "rejects"), rejects=len(rows))
