"""The artefact store: objects named by their content, records of what made them, and kernel locks.

Layout under the root, and how each file is checked or comes again:
    objects/ab/abcd…        one file's bytes, or the listing of a folder (a "tree"); named by their digest
    trees/abcd…/            a tree's files laid out under their names; compared with the listing when opened
    records/STAGE/KEY.json  what a stage with this key put out; written last, so it commits the work; sealed
    last/STAGE/LABEL.json   what the item's latest record was made from; for reasons only; sealed
    damage/DIGEST.json      which records may have been made from a damaged tree; sealed, gone once mended
    rows/STAGE.sqlite       finished rows, by the digest of what each was made from; a check for each (storage/rows)
    fixed.json              numbers that are fixed once; sealed, and there twice
    files.sqlite            the stat cache (storage/filestat): made again
    report.*                copies of the report's artefacts; their digests are in published.json, which is sealed
    sample/VERSION/         the sample corpus; its digests are in VERSION.json beside it, which is sealed
    scratch/KEY/            what an unfinished item resumes from (step checkpoints); removed once it is done
    logs/STAGE/KEY…/        a training's curves for TensorBoard; logs/*.log is what processes printed; read by people
    runs/ID.json            what a run was asked for and what became of it (tasks/engine/runs.py)
    watch.json              what the last look saw, and what was told last (tasks/orchestration/watch.py)
    locks/                  kernel file locks; a killed process holds none

"Sealed" is JSON with a digest of itself (storage/files). Writes go to a temporary name and are renamed, so a kill
leaves a whole file or none. What is read is data, not trusted: every name and digest is checked where it enters
(storage/names), and a store holds no links. Knows nothing of stages' code, settings or models.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO, Literal, TypeVar
from urllib.parse import quote

from pydantic import Field, TypeAdapter, ValidationError

from storage.files import (
    REPAIR,
    TEMPORARY,
    StoreError,
    UnreadableError,
    canonical,
    digest_bytes,
    on_store,
    sealed,
    shown,
    unsealed,
    write_atomic,
    writing,
)
from storage.filestat import StatCache, content_digest
from storage.names import DIGEST_BYTES, Digest, Name
from storage.records import FORMAT, Damage, Last, Member, NewerError, Record, Ref
from storage.rows import RowStore

__all__ = [
    "DIGEST_BYTES", "TEMPORARY", "NewerError", "Record", "Ref", "RowStore", "Store", "StoreError",
    "UnreadableError", "canonical", "digest_bytes", "write_atomic", "writing",
]  # fmt: skip

LOG = logging.getLogger(__name__)
LOOK_S = 0.1
"""How often somebody who has something to do meanwhile looks whether a lock is free."""


T = TypeVar("T")
MEMBERS = TypeAdapter(list[Member])
PUBLISHED = TypeAdapter(dict[Name, Digest])
LISTING = TypeAdapter(dict[Literal["files"], dict[str, Digest]])
FIXED = TypeAdapter(dict[str, Annotated[int, Field(ge=1)]])


class Store:
    """One store folder. Cheap to open; creates nothing until something is written.

    stats: with it, an artefact that was written to since it was last looked at is read again and compared.
    rows_anew: rows that were finished before count as missing, and are written over as they are made again.
    """

    def __init__(self, root: Path | str, stats: StatCache | None = None, rows_anew: bool = False):
        self.root = Path(root).resolve()
        self.stats = stats
        self._rows_made: dict[str, set[str]] | None = {} if rows_anew else None
        """Stage -> keys of the rows that were put through this store, which alone count then."""

    def hint(self, verb: str) -> str:
        """The command that does `verb` with this store, for messages."""
        return on_store(verb, self.root)

    # What a store may not hold ------------------------------------------------------------------------

    def links(self) -> Iterator[Path]:
        """Links, pipes and other special files, by which a store would reach outside itself."""
        folders = [self.root]
        while folders:
            with (
                contextlib.suppress(FileNotFoundError, NotADirectoryError),
                os.scandir(folders.pop()) as entries,
            ):
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    elif not entry.is_file(follow_symlinks=False):
                        yield Path(entry.path)

    def refuse_links(self) -> None:
        """StoreError where the store holds a link or a pipe. To be asked before anything is written or removed."""
        for path in self.links():
            raise StoreError(
                f"{shown(path)}: a link, or no plain file; a store holds none, so that nothing outside it is touched: "
                f"{self.hint(REPAIR)} removes it, not what it leads to"
            )

    # Objects ------------------------------------------------------------------------------------------

    def object_path(self, digest: str) -> Path:
        return self.root / "objects" / digest[:2] / digest

    def put_bytes(
        self, name: str, data: bytes, rows: int = 0, rejects: int = 0, views: dict[str, str] | None = None
    ) -> Ref:
        digest = digest_bytes(data)
        ref = Ref(name=name, digest=digest, size=len(data), rows=rows, rejects=rejects, views=views or {})
        if not self.holds(ref, rehash=True):
            write_atomic(self.object_path(ref.digest), data)
        return ref

    def put_tree(self, name: str, folder: Path, rows: int = 0, rejects: int = 0) -> Ref:
        """Every file of `folder` as an object, and their listing as the artefact."""
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        members = [self.put_bytes(p.relative_to(folder).as_posix(), p.read_bytes()) for p in files]
        listing = self.put_bytes(
            name, canonical([m.model_dump(include={"name", "digest", "size"}) for m in members])
        )
        return listing.model_copy(update={"tree": True, "rows": rows, "rejects": rejects})

    def read(self, ref: Ref | Member) -> bytes:
        """The artefact's bytes, checked against its digest, so damage is never read as data."""
        return self._checked(ref, Path.read_bytes, digest_bytes)

    def path(self, ref: Ref | Member) -> Path:
        """The artefact's file, checked as `read` does, for what reads it part by part; none of it is held."""
        self._checked(ref, content_digest, lambda digest: digest)
        return self.object_path(ref.digest)

    def _checked(self, ref: Ref | Member, read: Callable[[Path], T], digest_of: Callable[[T], str]) -> T:
        """What `read` makes of the artefact's file. StoreError where that is not there, or is not the artefact."""
        path = self.object_path(ref.digest)
        try:
            found = read(path)
        except FileNotFoundError:
            raise StoreError(
                f"{ref.name}: artefact {ref.digest} is missing; run again what {self.hint('runs')} lists"
            ) from None
        except OSError as error:
            raise UnreadableError(
                f"{ref.name}: {path} cannot be read: {error.strerror}; {self.hint(REPAIR)} drops it"
            ) from error
        if digest_of(found) != ref.digest:
            raise UnreadableError(
                f"{ref.name}: artefact {ref.digest} is damaged; {self.hint(REPAIR)} drops it, then run again"
            )
        return found

    def members(self, tree: Ref) -> list[Member]:
        """A tree's files. StoreError where its listing is not there, is damaged, or names what no tree can hold."""
        listing = self.read(tree)
        try:
            members = MEMBERS.validate_json(listing)
            _refuse_clashes([member.name for member in members])
        except ValueError as error:
            raise UnreadableError(
                f"{tree.name}: {self.object_path(tree.digest)} is no listing of a folder ({first_line(error)}); "
                f"{self.hint(REPAIR)} drops it, then run again"
            ) from None
        return members

    def holds(self, ref: Ref | Member, rehash: bool = False) -> bool:
        """Whether the artefact is there whole: by digest when `rehash`, by the stat cache's where there is one, else by size."""
        path = self.object_path(ref.digest)
        try:
            if rehash:
                whole = content_digest(path) == ref.digest
            elif self.stats is not None:
                whole = self.stats.digest(path) == ref.digest
            else:
                whole = path.stat().st_size == ref.size
            if not whole or not isinstance(ref, Ref) or not ref.tree:
                return whole
            return all(self.holds(member, rehash) for member in self.members(ref))
        except (OSError, StoreError):
            return False

    def size(self, digest: str) -> int:
        """The size of what lies under a digest; 0 where nothing does."""
        try:
            return self.object_path(digest).stat().st_size
        except OSError:
            return 0

    def drop(self, ref: Ref) -> None:
        """Remove an artefact's bytes, a tree's damaged members and its layout; missing files are no error."""
        if ref.tree:
            with contextlib.suppress(StoreError):
                for member in self.members(ref):
                    if not self.holds(member, rehash=True):
                        remove(self.object_path(member.digest))
            remove(self.layout_path(ref.digest))
        remove(self.object_path(ref.digest))

    # Trees laid out as files --------------------------------------------------------------------------

    def layout_path(self, digest: str) -> Path:
        return self.root / "trees" / digest

    def folder(self, tree: Ref) -> Path:
        """A tree laid out as files, checked against its listing; made on first use, and again where it is damaged.

        A file that nobody wrote to since it was last checked costs a stat. What may have been made from a damaged
        layout is noted for `verify`.
        """
        target, members = self.layout_path(tree.digest), self.members(tree)
        if not self._laid_out(target, members):
            with self.lock(f"tree-{tree.digest}"):
                if not self._laid_out(target, members):
                    if os.path.lexists(target):
                        self.note_damage(tree.digest)
                        LOG.warning(
                            "%s: its files were damaged and are laid out again; %s names what may have been made "
                            "from them", target, self.hint("verify"),
                        )  # fmt: skip
                    self._lay_out(target, members)
        return target

    def layout_holds(self, tree: Ref) -> bool:
        """Whether the layout, if there is one, is that of the listing; every byte is read."""
        target = self.layout_path(tree.digest)
        return not os.path.lexists(target) or _is_layout(target, self.members(tree), content_digest)

    def _laid_out(self, target: Path, members: list[Member]) -> bool:
        whole = _is_layout(target, members, self._layout_stats.digest)
        with contextlib.suppress(OSError):  # a read-only store: the next look hashes again
            self._layout_stats.save()
        return whole

    @cached_property
    def _layout_stats(self) -> StatCache:
        return StatCache(self.root / "files.sqlite") if self.stats is None else self.stats

    def _lay_out(self, target: Path, members: list[Member]) -> None:
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=TEMPORARY))
            try:
                for member in members:
                    write_atomic(temporary / "new" / member.name, self.read(member))
                (temporary / "new").mkdir(exist_ok=True)
                if os.path.lexists(target):
                    os.rename(target, temporary / "old")
                os.rename(temporary / "new", target)
            finally:
                remove(temporary)

    # Records ------------------------------------------------------------------------------------------

    def record_path(self, stage: str, key: str) -> Path:
        return self.root / "records" / stage / f"{key}.json"

    def record(self, stage: str, key: str) -> Record | None:
        """The record of this key, or None where there is none or it is damaged. NewerError where it is a later version's."""
        try:
            return self.read_record(self.record_path(stage, key))
        except NewerError:
            raise
        except UnreadableError:
            return None

    def read_record(self, path: Path) -> Record | None:
        """The record in a file, None where there is no file. UnreadableError where it is damaged, NewerError where newer."""
        found = self._read_sealed(path, lambda value, checked: as_record(value, checked, path))
        if found is not None and (found.stage, f"{found.key}.json") != (path.parent.name, path.name):
            raise self._unreadable(path, f"it is that of {found.stage}/{found.key}")
        return found

    def prepare(self, stage: str, key: str, parts: dict) -> None:
        """Before an item runs: where many machines share the store (storage/remote), take over what others have done of it."""

    def share(self, refs: Iterable[Ref]) -> None:
        """After an item ran, in the process that it ran in: where many machines share the store, put what it made there."""

    def commit(self, record: Record, parts: dict) -> Record:
        """Write the record: from here on the item is fresh. `parts` is what its key was made from. Returns the record that stands."""
        value = {**record.model_dump(mode="json"), "format": FORMAT}
        write_atomic(self.record_path(record.stage, record.key), sealed(value))
        self.remember(record.stage, record.label, record.key, parts)
        return record

    def remember(self, stage: str, label: str, key: str, parts: dict) -> None:
        """Note what the item was last made from, for the reasons the next plan gives."""
        write_atomic(self.last_path(stage, label), sealed({"key": key, "label": label, "parts": parts}))

    def last(self, stage: str, label: str) -> dict | None:
        """{"key", "label", "parts"} as it was noted; None where nothing was, or it is damaged."""
        try:
            return self.read_last(self.last_path(stage, label))
        except UnreadableError:
            return None

    def read_last(self, path: Path) -> dict | None:
        """As `last`, of a file. UnreadableError where it is damaged."""

        def parse(value: dict, checked: bool) -> dict:
            noted = Last.model_validate(value)
            if self.last_path(path.parent.name, noted.label) != path:
                raise ValueError(f"it is that of {noted.label}")
            return noted.model_dump(exclude_unset=True)

        return self._read_sealed(path, parse)

    def last_path(self, stage: str, label: str) -> Path:
        return self.root / "last" / stage / f"{quote(label, safe='')}.json"

    def record_paths(self) -> list[Path]:
        return sorted((self.root / "records").glob("*/*.json"))

    def last_paths(self) -> list[Path]:
        return sorted((self.root / "last").glob("*/*.json"))

    def records(self) -> Iterator[Record]:
        """Every record. UnreadableError at the first that cannot be read: what it needs is not known."""
        for path in self.record_paths():
            record = self.read_record(path)
            if record is not None:
                yield record

    # What was made from what --------------------------------------------------------------------------

    def made_from(self, digest: str) -> list[Record]:
        """The records of all that was made from an artefact, directly or by way of others. What cannot be read is passed over."""
        records = []
        for path in self.record_paths():
            with contextlib.suppress(UnreadableError):
                records += [record for record in [self.read_record(path)] if record is not None]
        inputs = {(r.stage, r.key): self._inputs(r) for r in records}
        found: dict[tuple[str, str], Record] = {}
        tainted, before = {digest}, -1
        while len(found) != before:
            before = len(found)
            for record in records:
                if tainted & inputs[record.stage, record.key]:
                    found[record.stage, record.key] = record
                    tainted |= {d for ref in record.outputs for d in (ref.digest, *ref.views.values())}
        return list(found.values())

    def _inputs(self, record: Record) -> set[str]:
        """Digests of what an item read; where the record does not say, those noted for its label's latest record."""
        if record.inputs is not None:
            return set(record.inputs)
        last = self.last(record.stage, record.label)
        return set(last["parts"].get("input", {}).values()) if last and last["key"] == record.key else set()

    def note_damage(self, tree: str) -> None:
        """Note which records may have been made from a tree's damaged layout, and forget unfinished trainings.

        All that was made from it by now: when the damage came is not known.
        """
        made = {(record.stage, record.key) for record in self.made_from(tree)}
        with contextlib.suppress(UnreadableError):
            made |= set(self.read_damage(self.damage_path(tree)))
        write_atomic(self.damage_path(tree), sealed({"tree": tree, "records": sorted(made)}))
        for path in (self.root / "scratch").glob("*/*"):
            if path.suffix != ".tmp":  # which an item that runs now is writing
                remove(path)

    def damage_path(self, tree: str) -> Path:
        return self.root / "damage" / f"{tree}.json"

    def damage_paths(self) -> list[Path]:
        return sorted((self.root / "damage").glob("*.json"))

    def read_damage(self, path: Path) -> list[tuple[str, str]]:
        """(stage, key) of what may have been made from the damaged tree that a note is of. UnreadableError."""

        def parse(value: dict, checked: bool) -> list[tuple[str, str]]:
            note = Damage.model_validate(value)
            if self.damage_path(note.tree) != path or not checked:
                raise ValueError("it is that of another tree, or has no check")
            return list(note.records)

        return self._read_sealed(path, parse) or []

    # Numbers that are fixed once ------------------------------------------------------------------

    def fixed(self, name: str, value: int) -> int:
        """The number first stored under `name`: `value` the first time, the same ever after."""
        with self.lock("fixed"):
            known = self.all_fixed()
            if name not in known:
                known[name] = self._agreed_number(name, value)
                self.write_fixed(known)
            return known[name]

    def _agreed_number(self, name: str, value: int) -> int:
        """The number to be stored under a name that has none here."""
        return value

    def fixed_paths(self) -> tuple[Path, Path]:
        """The two copies; either is enough."""
        return self.root / "fixed.json", self.root / "fixed.copy.json"

    def all_fixed(self) -> dict[str, int]:
        """The numbers, of whichever copy is whole. UnreadableError where none is."""
        problem = None
        for path in self.fixed_paths():
            try:
                found = self.read_fixed(path)
            except UnreadableError as error:
                problem = problem or error
                continue
            if found is not None:
                return found
        if problem is not None:
            raise problem
        return {}

    def read_fixed(self, path: Path) -> dict[str, int] | None:
        return self._read_sealed(path, lambda value, checked: FIXED.validate_python(value, strict=True))

    def write_fixed(self, known: dict[str, int]) -> None:
        for path in self.fixed_paths():
            write_atomic(path, sealed(known))

    # Copies for people --------------------------------------------------------------------------------

    def publish(self, files: dict[str, bytes]) -> None:
        """Write copies below the root, with their digests noted beside them."""
        for name, data in files.items():
            write_atomic(self.root / name, data)
        write_atomic(self.root / "published.json", sealed({n: digest_bytes(d) for n, d in files.items()}))

    def damaged_published(self) -> list[Path]:
        """The copies that are there and not as they were written; none where nothing is noted. UnreadableError."""
        noted = self._read_sealed(
            self.root / "published.json", lambda value, checked: PUBLISHED.validate_python(value)
        )
        copies = {self.root / name: digest for name, digest in (noted or {}).items()}
        return [p for p, digest in copies.items() if os.path.lexists(p) and not _is_whole(p, digest)]

    # Folders that others read, such as the sample corpus ----------------------------------------------

    def has_listing(self, folder: Path) -> bool:
        return _listing_path(folder).exists()

    def write_listing(self, folder: Path) -> None:
        """Note what a folder of the store holds, in a file beside it."""
        write_atomic(_listing_path(folder), sealed({"files": _digests_below(folder)}))

    def listings(self) -> list[Path]:
        return sorted((self.root / "sample").glob("*.json"))

    def differing(self, listing: Path) -> list[str]:
        """The files of a listed folder that are gone, new, or not as they were. UnreadableError of the listing itself."""
        noted = self._read_sealed(listing, lambda value, checked: LISTING.validate_python(value)) or {
            "files": {}
        }
        found = _digests_below(listing.with_suffix(""))
        names = noted["files"].keys() | found.keys()
        return sorted(name for name in names if noted["files"].get(name) != found.get(name))

    # Locks and rows -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(
        self, name: str, shared: bool = False, meanwhile: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """A kernel file lock: released when the process ends, in whatever way. StoreError in a read-only store.

        meanwhile: called again and again while another holds it; an error that it raises ends the waiting.
        """
        path = self.root / "locks" / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "rb")
        with file:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            if meanwhile is None:
                fcntl.flock(file, kind)
            else:
                _wait_for(file, kind, meanwhile)
            yield

    def rows_paths(self) -> list[Path]:
        return sorted((self.root / "rows").glob("*.sqlite"))

    def rows(self, stage: str) -> RowStore:
        # Two openers of a new file would both turn it to write-ahead logging, where SQLite does not wait: one fails.
        with self.lock("rows"):
            made = None if self._rows_made is None else self._rows_made.setdefault(stage, set())
            return RowStore(self.root / "rows" / f"{stage}.sqlite", made)

    # Reading what may be damaged ------------------------------------------------------------------

    def _read_sealed(self, path: Path, parse: Callable[[dict, bool], T]) -> T | None:
        """A sealed file, parsed; None where there is none. UnreadableError, which names it, where it is damaged.

        parse(value, whether it had a check): raises ValueError for what cannot be believed.
        """
        try:
            return parse(*unsealed(path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(path, str(error.strerror)) from error
        except ValueError as error:
            raise self._unreadable(path, first_line(error)) from None

    def _unreadable(self, path: Path, why: str) -> UnreadableError:
        return UnreadableError(f"{shown(path)}: cannot be read ({why}); {self.hint(REPAIR)} drops it")


def _wait_for(file: BinaryIO, kind: int, meanwhile: Callable[[], None]) -> None:
    while True:
        try:
            return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            meanwhile()
            time.sleep(LOOK_S)


def as_record(value: dict, checked: bool, path: Path | str) -> Record:
    """A record, of what its file holds without the check. ValueError where it cannot be believed; NewerError."""
    form = value.pop("format", None)
    if isinstance(form, int) and form > FORMAT:
        raise NewerError(
            f"{shown(path)}: written by a newer Empamba (record format {form}; this one knows {FORMAT}): use that one "
            "with this store"
        )
    if form is not None and (form != FORMAT or not checked):
        raise ValueError("its format or its check is damaged")
    record = Record.model_validate(value)
    if any(ref.view for ref in record.outputs):
        raise ValueError("an artefact is not a view of itself")
    return record


def _listing_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _digests_below(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): content_digest(path) for path in files}


def first_line(error: ValueError) -> str:
    """What is wrong, on one line."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, found["loc"]))
        return shown(f"{where}: {found['msg']}"[:200])
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _refuse_clashes(names: list[str]) -> None:
    """ValueError where a name is there twice, or is a file and a folder at once."""
    folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents}
    if len(set(names)) != len(names) or not folders.isdisjoint(names):
        raise ValueError("a name is there twice")


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return content_digest(path) == digest
    except OSError:
        return False


def _is_layout(folder: Path, members: list[Member], digest_of: Callable[[Path], str]) -> bool:
    """Whether a folder holds a tree's files, each with its bytes, and no other."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    found = {p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}
    if found != {folder / member.name for member in members} or any(p.is_symlink() for p in found):
        return False
    try:
        return all(digest_of(folder / member.name) == member.digest for member in members)
    except OSError:
        return False


def remove(path: Path) -> None:
    """Remove a file, a folder or a link; never what a link leads to. A missing path is no error."""
    with writing(path):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path)
