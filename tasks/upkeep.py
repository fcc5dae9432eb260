"""Upkeep of a store: what is damaged, and what nothing needs any more. Knows nothing of stages' work."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from storage.filestat import content_digest
from storage.store import TEMPORARY, Record, Ref, Store
from tasks.engine.runs import drop_unreadable, runs
from tasks.engine.worker import EVENTS


def damaged(root: Path, repair: bool) -> list[str]:
    """A line for every artefact of a record that is missing or does not match its digest, laid-out trees included;
    and for every run's record that cannot be read.

    repair: such artefacts are dropped, so that they are made again; it waits for running flows.
    """
    store, lines = Store(root), []
    with store.lock("gc") if repair else nullcontext():
        for record in store.records():
            for ref in record.outputs:
                if not store.holds(ref, rehash=True) or not _layout_holds(store, ref):
                    lines.append(f"{record.stage} [{record.label}]: {ref.name} {ref.digest}")
                    if repair:
                        store.drop(ref)
        lines += [f"runs/{name}: {fault}" for name, fault in runs(store.root)[1].items()]
        if repair:
            drop_unreadable(store.root)
    return lines


def _layout_holds(store: Store, ref: Ref) -> bool:
    """Whether the files of a tree that was laid out are those of its listing."""
    folder = store.root / "trees" / ref.digest
    if not ref.tree or not folder.is_dir():
        return True
    members = store.members(ref)
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    if files != {member.name for member in members}:
        return False
    return all(content_digest(folder / member.name) == member.digest for member in members)


@dataclass(frozen=True)
class Collected:
    """Bytes of a store before and after a clean-up, and the files that went."""

    before: int
    after: int
    files: int


def collect(root: Path, superseded: bool = False, dry: bool = False) -> Collected:
    """Remove what no record needs; running flows are waited for, so nothing of theirs is touched.

    superseded: first forget the records that are not their item's latest, and what unfinished training could go on
    from. A setting that is changed back then costs its work again. dry: remove nothing, say what would go.
    """
    store = Store(root)
    with store.lock("gc"):
        size = sum(path.stat().st_size for path in _files(store.root))
        files = _unneeded(store, superseded)
        freed = sum(path.stat().st_size for path in files)
        if not dry:
            # Records first: a kill in between leaves files that nobody needs, and no record without its files.
            for path in sorted(files, key=lambda p: p.parent.parent.name != "records"):
                path.unlink()
            _remove_empty_folders(store)
    return Collected(size, size - freed, len(files))


def _unneeded(store: Store, superseded: bool) -> list[Path]:
    records = _latest(store) if superseded else list(store.records())
    needed = {digest for record in records for ref in record.outputs for digest in _digests(store, ref)}
    kept = {store.record_path(record.stage, record.key) for record in records}
    files = [path for path in (store.root / "objects").glob("*/*") if path.name not in needed]
    files += [path for path in (store.root / "records").glob("*/*.json") if path not in kept]
    for tree in (store.root / "trees").glob("*"):
        files += _files(tree) if tree.name not in needed else ()
    known = {(record.stage, record.key[:EVENTS]) for record in records}
    if superseded:
        files += _files(store.root / "scratch")
    else:  # an unfinished training goes on from its scratch, and its curves with it
        known |= {(None, path.name[:EVENTS]) for path in (store.root / "scratch").glob("*")}
    for folder in (store.root / "logs").glob("*/*"):
        if not {(folder.parent.name, folder.name), (None, folder.name)} & known:
            files += _files(folder)
    # No flow runs while this one holds the lock: what is unfinished now was left by one that was killed.
    left = (path for path in _files(store.root) if any(part.startswith(TEMPORARY) for part in path.parts))
    return list(dict.fromkeys([*files, *left]))


def _latest(store: Store) -> list[Record]:
    """Each item's latest record."""
    keys = {json.loads(p.read_bytes())["key"] for p in (store.root / "last").glob("*/*.json")}
    return [record for record in store.records() if record.key in keys]


def _digests(store: Store, ref: Ref) -> set[str]:
    if not ref.tree or not store.holds(ref):
        return {ref.digest}
    return {ref.digest, *(member.digest for member in store.members(ref))}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _remove_empty_folders(store: Store) -> None:
    for part in ("trees", "scratch", "logs"):
        for folder, _, _ in os.walk(store.root / part, topdown=False):
            if not any(Path(folder).iterdir()) and Path(folder) != store.root / part:
                shutil.rmtree(folder)
