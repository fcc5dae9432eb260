"""Maintenance of a store: finding damage, and removing what no record needs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from storage.files import shown
from storage.filestat import cache_fault
from storage.names import is_digest
from storage.remote.opening import open_store
from storage.remote.store import BucketStore
from storage.rows import mend_rows, rows_fault
from storage.store import (
    TEMPORARY,
    NewerError,
    Record,
    Ref,
    Store,
    StoreError,
    UnreadableError,
    remove,
)
from tasks.engine.jobs import EVENTS
from tasks.engine.run import PUBLISHED
from tasks.engine.runs import LATER, drop_unreadable, runs

# What is damaged ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """What is wrong with one file, in one line, and whether it was repaired."""

    line: str
    mended: bool


def damaged(root: Path, repair: bool) -> list[str]:
    """The lines of what `check` finds."""
    return [finding.line for finding in check(root, repair)]


def check(root: Path, repair: bool) -> list[Finding]:
    """Every file of the store against its digest or its own check. Logs and locks hold nothing that is read again.

    repair: what is damaged is dropped, so that it is made again, and with a tree's damaged layout all that may have
    been made from it; it waits for running flows. A later version's record is left as it is.
    """
    store = open_store(root, pull=True)
    checking = _Check(store, repair)
    checking.links()
    with store.lock("gc") if repair else nullcontext():
        checking.records()
        checking.layouts()  # before artefacts, whose repair removes layouts
        checking.made_from_damage()
        checking.artefacts()
        checking.rows()
        checking.fixed()
        checking.cache()
        checking.copies()
        checking.runs()
        checking.sample()
    return checking.findings


class _Check:
    """Checks a store, part by part."""

    def __init__(self, store: Store, repair: bool):
        self.store, self.repair = store, repair
        self.findings: list[Finding] = []
        self.suspects: dict[str, set[tuple[str, str]]] = {}
        """Damaged tree -> (stage, key) of what may have been made from it."""

    def found(self, line: str, mend: Callable[..., object] | None, *arguments) -> None:
        """Report a finding, and call `mend` on it if the check repairs; None for what must stay."""
        mended = False
        if self.repair and mend is not None:
            mend(*arguments)
            mended = True
        self.findings.append(Finding(line, mended))

    def links(self) -> None:
        for path in list(self.store.links()):
            self.found(f"{shown(path)}: a link, or no plain file; a store holds none", remove, path)

    def records(self) -> None:
        """Records, and the notes of what items were last made from."""
        for path in self.store.record_paths():
            try:
                self.store.read_record(path)
            except NewerError as error:
                self.found(str(error), None)
            except UnreadableError as error:
                self.found(str(error), remove, path)
        for path in self.store.last_paths():
            try:
                self.store.read_last(path)
            except UnreadableError as error:
                self.found(str(error), remove, path)

    def _artefacts(self) -> dict[str, tuple[Record, Ref]]:
        """Each artefact that a readable record names, once."""
        found: dict[str, tuple[Record, Ref]] = {}
        for path in self.store.record_paths():
            with suppress(UnreadableError):  # reported already
                record = self.store.read_record(path)
                if record is not None:
                    for ref in record.outputs:
                        found.setdefault(ref.digest, (record, ref))
        return found

    def layouts(self) -> None:
        """Trees' files as they are laid out."""
        for record, ref in self._artefacts().values():
            with suppress(StoreError):  # a layout is never opened where its listing cannot be read
                if ref.tree and not self.store.layout_holds(ref):
                    self.suspects[ref.digest] = {(r.stage, r.key) for r in self.store.made_from(ref.digest)}
                    line = f"{record.stage} [{record.label}]: {ref.name} {ref.digest}, as laid out in trees/"
                    self.found(line, self._lay_out_again, ref)

    def _lay_out_again(self, ref: Ref) -> None:
        """The note comes first: after a kill it still says what is to be dropped."""
        self.store.note_damage(ref.digest)
        remove(self.store.layout_path(ref.digest))
        with suppress(UnreadableError):
            self.store.folder(ref)

    def made_from_damage(self) -> None:
        """Records of what may have been made from a layout while it was damaged, found now or by a run."""
        for path in self.store.damage_paths():
            try:
                self.suspects.setdefault(path.stem, set()).update(self.store.read_damage(path))
            except UnreadableError as error:
                self.found(str(error), remove, path)
                made = self.store.made_from(path.stem) if is_digest(path.stem) else ()
                self.suspects.setdefault(path.stem, set()).update((r.stage, r.key) for r in made)
        for tree, suspected in self.suspects.items():
            for stage, key in sorted(suspected):
                record = None
                with suppress(NewerError):  # reported already, and stays
                    record = self.store.record(stage, key)
                if record is not None:
                    line = f"{stage} [{record.label}]: may have been made from tree {tree} while its files were damaged"
                    self.found(line, remove, self.store.record_path(stage, key))
        if self.repair:
            for path in self.store.damage_paths():
                remove(path)

    def artefacts(self) -> None:
        if isinstance(self.store, BucketStore):  # its folder is a cache of which nothing is read unchecked
            return self.bucket(self.store)
        for record, ref in self._artefacts().values():
            if not self.store.holds(ref, rehash=True):
                line = f"{record.stage} [{record.label}]: {ref.name} {ref.digest}"
                self.found(line, self.store.drop, ref)

    def bucket(self, store: BucketStore) -> None:
        """What the bucket lists, all of which is read, and what records name and it lacks."""
        faults = {
            digest: fault for digest in sorted(store.listed.objects) if (fault := store.object_fault(digest))
        }
        for digest, fault in faults.items():
            self.found(fault, store.drop_object, digest)
        store.look_at_segments()
        for name, fault in store.listed.damaged.items():
            self.found(f"{store.bucket}/{name}: {fault}", store.bucket.delete, name)
        for record, ref in self._artefacts().values():
            if not store.holds(ref) and ref.digest not in faults:
                # Nothing to drop: its record makes nothing fresh, and the next run makes it again.
                self.found(
                    f"{record.stage} [{record.label}]: {ref.name} {ref.digest} is missing", lambda: None
                )

    def rows(self) -> None:
        for path in self.store.rows_paths():
            fault = rows_fault(path)
            if fault:
                self.found(f"{shown(path)}: {fault}; whole rows are kept", mend_rows, path)

    def fixed(self) -> None:
        """The numbers that are fixed once. Where no copy is whole they are counted anew."""
        for path in self.store.fixed_paths():
            try:
                self.store.read_fixed(path)
            except UnreadableError as error:
                self.found(str(error), self._mend_fixed, path)

    def _mend_fixed(self, path: Path) -> None:
        remove(path)
        with suppress(UnreadableError):
            known = self.store.all_fixed()
            if known:
                self.store.write_fixed(known)

    def cache(self) -> None:
        path = self.store.root / "files.sqlite"
        fault = cache_fault(path)
        if fault:
            self.found(f"{path}: {fault}; it is only a cache", remove, path)

    def copies(self) -> None:
        """The report's copies for people: removed, and written again by the next run."""
        note = self.store.root / "published.json"
        try:
            damaged = self.store.damaged_published()
        except UnreadableError as error:
            self.found(str(error), self._remove_all, [note, *(self.store.root / name for name in PUBLISHED)])
            return
        if not note.exists() and not _is_json(self.store.root / "report.json"):
            damaged = [self.store.root / "report.json"]
        for path in damaged:
            self.found(f"{path}: not as it was written", remove, path)

    def runs(self) -> None:
        """Records of runs: what a run was asked for. One that cannot be read is removed."""
        for name, fault in runs(self.store.root)[1].items():
            mend = None if fault == LATER else drop_unreadable
            self.found(f"runs/{name}: {fault}", mend, self.store.root)

    def sample(self) -> None:
        for listing in self.store.listings():
            folder = listing.with_suffix("")
            try:
                names = self.store.differing(listing)
            except UnreadableError as error:
                self.found(str(error), self._remove_all, [listing, folder])
                continue
            if names:
                examples = ", ".join(ascii(name)[1:-1] for name in names[:3])
                line = f"{folder}: {len(names)} files are not as they were written: {examples}"
                self.found(line, self._remove_all, [folder, listing])

    @staticmethod
    def _remove_all(paths: Iterable[Path]) -> None:
        for path in paths:
            remove(path)


def _is_json(path: Path) -> bool:
    """Whether a file is JSON or missing."""
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return True
    except (OSError, ValueError, RecursionError):
        return False
    return True


# What nothing needs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Collected:
    """Bytes of a store before and after a clean-up, and the files that went."""

    before: int
    after: int
    files: int


def collect(root: Path, superseded: bool = False, dry: bool = False) -> Collected:
    """Remove what no record needs; running flows are waited for, so nothing of theirs is touched.

    superseded: first forget the records that are not their item's latest, and the checkpoints of unfinished
    trainings. Changing a setting back then costs its work again. dry: remove nothing, say what would go.
    Raises StoreError, and removes nothing, where something cannot be read: it may need any of the files.
    """
    store = Store(root)
    store.refuse_links()
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
    everything = list(
        store.records()
    )  # all of them first: one that cannot be read must not count as unneeded
    records = _latest(store, everything) if superseded else everything
    needed = {digest for record in records for ref in record.outputs for digest in _digests(store, ref)}
    kept = {store.record_path(record.stage, record.key) for record in records}
    files = [path for path in (store.root / "objects").glob("*/*") if path.name not in needed]
    files += [path for path in (store.root / "records").glob("*/*.json") if path not in kept]
    for tree in (store.root / "trees").glob("*"):
        files += _files(tree) if tree.name not in needed else ()
    known: set[tuple[str | None, str]] = {(record.stage, record.key[:EVENTS]) for record in records}
    if superseded:
        files += _files(store.root / "scratch")
    else:  # an unfinished training resumes from its scratch folder, and needs its curves
        known |= {(None, path.name[:EVENTS]) for path in (store.root / "scratch").glob("*")}
    for folder in (store.root / "logs").glob("*/*"):
        if not {(folder.parent.name, folder.name), (None, folder.name)} & known:
            files += _files(folder)
    # No flow runs while this one holds the lock: what is unfinished now was left by one that was killed.
    left = (path for path in _files(store.root) if any(part.startswith(TEMPORARY) for part in path.parts))
    return list(dict.fromkeys([*files, *left]))


def _latest(store: Store, records: list[Record]) -> list[Record]:
    """Each item's latest record; all of them where no note says which is the latest."""
    keys = {}
    for path in store.last_paths():
        last = store.read_last(path)
        if last is not None:
            keys[path.parent.name, last["label"]] = last["key"]
    return [r for r in records if keys.get((r.stage, r.label), r.key) == r.key]


def _digests(store: Store, ref: Ref) -> set[str]:
    """What a record's artefact needs. UnreadableError of a listing that is there and cannot be read."""
    if not ref.tree or not store.object_path(ref.digest).exists():
        return {ref.digest}
    return {ref.digest, *(member.digest for member in store.members(ref))}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _remove_empty_folders(store: Store) -> None:
    for part in ("trees", "scratch", "logs"):
        for folder, _, _ in os.walk(store.root / part, topdown=False):
            if not any(Path(folder).iterdir()) and Path(folder) != store.root / part:
                shutil.rmtree(folder)
