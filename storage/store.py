"""The artefact store: objects named by their content, records of what made them, and kernel locks.

Layout under the root:
    objects/ab/abcd…        one file's bytes, or the listing of a folder (a "tree")
    trees/abcd…/            a tree's files laid out under their names, read-only by convention
    records/STAGE/KEY.json  what a stage with this key put out; written last, so it commits the work
    last/STAGE/LABEL.json   what the item's latest record was made from; for reasons only
    rows/STAGE.sqlite       finished rows, by the digest of what each was made from
    scratch/KEY/            what an unfinished item goes on from (step checkpoints); removed once it is done
    logs/STAGE/KEY…/        a training's curves for TensorBoard; logs/*.log is what processes printed
    runs/ID.json            what a run was asked for and what became of it (tasks/engine/runs.py)
    locks/                  kernel file locks; a killed process holds none

Writes go to a temporary name and are renamed, so a kill leaves a whole file or none. Knows nothing of
stages' code, settings or models.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel

from storage.filestat import StatCache, content_digest

DIGEST_BYTES = 16
TEMPORARY = ".tmp-"
"""What the names of unfinished files begin with."""


class StoreError(RuntimeError):
    """The store cannot be used or an artefact is damaged; the message says which and what to do."""


class Ref(BaseModel, frozen=True, extra="forbid"):
    """An artefact: the name its stage gave it and the digest of its bytes (a tree's: of its listing).

    views: of a table's shard, the digest of each view's rows (storage/tables). view: the one that a reader is
    given; empty for the whole.
    """

    name: str
    digest: str
    size: int
    rows: int = 0
    rejects: int = 0
    tree: bool = False
    views: dict[str, str] = {}
    view: str = ""

    def seen_as(self, view: str) -> Ref:
        """The artefact as a reader of one of its views is given it."""
        return self.model_copy(update={"view": view})

    @property
    def content(self) -> str:
        """The digest of what its reader reads."""
        return self.views[self.view] if self.view else self.digest


class Record(BaseModel, frozen=True, extra="forbid"):
    """What one finished item put out."""

    stage: str
    label: str
    key: str
    outputs: tuple[Ref, ...]


def digest_bytes(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def canonical(value) -> bytes:
    """JSON with sorted keys; what JSON cannot hold raises, so nothing is ever digested by its repr."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def write_atomic(path: Path, data: bytes) -> None:
    """The whole file or none, durable on return. StoreError where it cannot be written."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """StoreError, in one line, for what keeps a file of the store from being written."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(
            f"{path}: cannot be written: {reason}; nothing is lost: make room or give write access, and run again"
        ) from error


class Store:
    """One store folder. Cheap to open; creates nothing until something is written.

    stats: with it, an artefact that was written to since it was last looked at is read again and compared.
    """

    def __init__(self, root: Path | str, stats: StatCache | None = None):
        self.root = Path(root).resolve()
        self.stats = stats

    # Objects ------------------------------------------------------------------------------------------

    def object_path(self, digest: str) -> Path:
        return self.root / "objects" / digest[:2] / digest

    def put_bytes(
        self, name: str, data: bytes, rows: int = 0, rejects: int = 0, views: dict[str, str] | None = None
    ) -> Ref:
        digest = digest_bytes(data)
        ref = Ref(name=name, digest=digest, size=len(data), rows=rows, rejects=rejects, views=views or {})
        if not self.holds(ref):
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

    def read(self, ref: Ref) -> bytes:
        """The artefact's bytes, checked against its digest, so damage is never read as data."""
        try:
            data = self.object_path(ref.digest).read_bytes()
        except FileNotFoundError:
            raise StoreError(
                f"{ref.name}: artefact {ref.digest} is missing; `empamba run` makes it again"
            ) from None
        if digest_bytes(data) != ref.digest:
            raise StoreError(
                f"{ref.name}: artefact {ref.digest} is damaged; `empamba verify --repair` drops it, then run again"
            )
        return data

    def members(self, tree: Ref) -> list[Ref]:
        return [Ref(**member) for member in json.loads(self.read(tree))]

    def folder(self, tree: Ref) -> Path:
        """A tree laid out as files; made on first use, by hard links where the file system has them."""
        target = self.root / "trees" / tree.digest
        if not target.is_dir():
            with writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=TEMPORARY))
                try:
                    for member in self.members(tree):
                        path = temporary / member.name
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(self.read(member))
                    with contextlib.suppress(OSError):  # another process laid it out first
                        os.rename(temporary, target)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
        return target

    def holds(self, ref: Ref, rehash: bool = False) -> bool:
        """Whether the artefact is there whole: by digest when `rehash`, by the stat cache's where there is one, else by size."""
        path = self.object_path(ref.digest)
        try:
            if rehash:
                whole = content_digest(path) == ref.digest
            elif self.stats is not None:
                whole = self.stats.digest(path) == ref.digest
            else:
                whole = path.stat().st_size == ref.size
        except FileNotFoundError:
            return False
        if not whole:
            return False
        return all(self.holds(member, rehash) for member in self.members(ref)) if ref.tree else True

    def drop(self, ref: Ref) -> None:
        """Remove an artefact's bytes, a tree's members and layout included; what is gone already is no error."""
        if ref.tree:
            with contextlib.suppress(StoreError):
                for member in self.members(ref):
                    if not self.holds(member, rehash=True):
                        self.drop(member)
            shutil.rmtree(self.root / "trees" / ref.digest, ignore_errors=True)
        self.object_path(ref.digest).unlink(missing_ok=True)

    # Records ------------------------------------------------------------------------------------------

    def record_path(self, stage: str, key: str) -> Path:
        return self.root / "records" / stage / f"{key}.json"

    def record(self, stage: str, key: str) -> Record | None:
        """The record of this key, or None where there is none or it cannot be read."""
        try:
            return Record.model_validate_json(self.record_path(stage, key).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def commit(self, record: Record, parts: dict) -> None:
        """Write the record: from here on the item is fresh. `parts` is what its key was made from."""
        write_atomic(self.record_path(record.stage, record.key), record.model_dump_json().encode())
        self.remember(record.stage, record.label, record.key, parts)

    def remember(self, stage: str, label: str, key: str, parts: dict) -> None:
        """Note what the item was last made from, for the reasons the next plan gives."""
        write_atomic(self._last_path(stage, label), canonical({"key": key, "label": label, "parts": parts}))

    def last(self, stage: str, label: str) -> dict | None:
        try:
            return json.loads(self._last_path(stage, label).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def _last_path(self, stage: str, label: str) -> Path:
        return self.root / "last" / stage / f"{quote(label, safe='')}.json"

    def records(self) -> Iterator[Record]:
        for path in sorted((self.root / "records").glob("*/*.json")):
            with contextlib.suppress(ValueError):
                yield Record.model_validate_json(path.read_bytes())

    # Small facts that are fixed once ------------------------------------------------------------------

    def fixed(self, name: str, value: int) -> int:
        """The number first stored under `name`: `value` the first time, the same ever after."""
        with self.lock("fixed"):
            path = self.root / "fixed.json"
            known = json.loads(path.read_bytes()) if path.exists() else {}
            if name not in known:
                known[name] = value
                write_atomic(path, canonical(known))
            return known[name]

    # Locks and rows -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, name: str, shared: bool = False) -> Iterator[None]:
        """A kernel file lock: it goes when the process goes, however it goes. StoreError in a read-only store."""
        path = self.root / "locks" / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "w")
        with file:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield

    def drop_rows(self, stage: str) -> None:
        """Remove a stage's finished rows; they can all be made again."""
        for path in (self.root / "rows").glob(f"{stage}.sqlite*"):
            path.unlink()

    def rows(self, stage: str) -> RowStore:
        # Two openers of a new file would both turn it to write-ahead logging, where SQLite does not wait: one fails.
        with self.lock("rows"):
            return RowStore(self.root / "rows" / f"{stage}.sqlite")


class RowStore:
    """Finished rows of one stage: digest of a row's own inputs -> bytes. Each put is durable on return."""

    def __init__(self, path: Path):
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
            self.connection.execute("pragma journal_mode=wal")
            self.connection.execute(
                "create table if not exists rows(key text primary key, value blob) without rowid"
            )

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        found = {}
        keys = list(dict.fromkeys(keys))
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            found.update(self.connection.execute(f"select key, value from rows where key in ({marks})", part))
        return found

    def put(self, key: str, value: bytes) -> None:
        with writing(self.path), self.connection:
            self.connection.execute("insert or replace into rows values (?, ?)", (key, value))

    def close(self) -> None:
        self.connection.close()
