"""The names of shards, "TABLE/DATASET/SPLIT/BUCKET", and finding shards by them. Reads none, so a plan may use it."""

from __future__ import annotations

from collections.abc import Iterable

from storage.store import Ref


def shard_name(table: str, dataset: str, split: str, bucket: int) -> str:
    return f"{table}/{dataset}/{split}/{bucket}"


def place(ref: Ref) -> tuple[str, str]:
    """(dataset, split) of a shard."""
    _, dataset, split, _ = ref.name.split("/")
    return dataset, split


def of_table(refs: Iterable[Ref], table: str, *splits: str) -> list[Ref]:
    """The shards of one table, of some splits where given, in name order."""
    found = [ref for ref in refs if ref.name.startswith(f"{table}/")]
    return sorted((r for r in found if not splits or place(r)[1] in splits), key=lambda r: r.name)
