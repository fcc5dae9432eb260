"""Upkeep of a store: what is damaged, and what nothing needs any more. Knows nothing of stages' work."""

from __future__ import annotations

import json
from pathlib import Path

from storage.store import Record, Ref, Store


def _latest(store: Store) -> list[Record]:
    """Each item's latest record."""
    keys = {json.loads(p.read_bytes())["key"] for p in (store.root / "last").glob("*/*.json")}
    return [record for record in store.records() if record.key in keys]


def damaged(root: Path, repair: bool) -> list[str]:
    """A line for every artefact of a record that is missing or does not match its digest."""
    store, lines = Store(root), []
    with store.lock("gc"):
        for record in store.records():
            for ref in record.outputs:
                if not store.holds(ref, rehash=True):
                    lines.append(f"{record.stage} [{record.label}]: {ref.name} {ref.digest}")
                    if repair:
                        store.drop(ref)
    return lines


def unneeded(root: Path) -> tuple[list[Path], int]:
    """Files that no latest record needs, and their bytes."""
    store = Store(root)
    needed: set[str] = set()
    records = _latest(store)
    for record in records:
        for ref in record.outputs:
            needed |= _digests(store, ref)
    keep_records = {store.record_path(r.stage, r.key) for r in records}
    files = [p for p in (store.root / "objects").glob("*/*") if p.name not in needed]
    files += [p for p in (store.root / "records").glob("*/*.json") if p not in keep_records]
    files += [
        p
        for t in (store.root / "trees").glob("*")
        if t.name not in needed
        for p in t.rglob("*")
        if p.is_file()
    ]
    return files, sum(path.stat().st_size for path in files)


def _digests(store: Store, ref: Ref) -> set[str]:
    return {ref.digest} | ({member.digest for member in store.members(ref)} if ref.tree else set())


def collect(root: Path) -> int:
    """Remove what `unneeded` names, waiting for running flows; returns the bytes freed."""
    store = Store(root)
    with store.lock("gc"):
        files, size = unneeded(root)
        for path in sorted(files, key=lambda p: p.parent.parent.name != "records"):
            path.unlink()
    return size
