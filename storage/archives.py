"""Read single members of a tar or tar.gz where it lies: "DIR/x.tar.gz::member" stands for a file inside it.

The first look at an archive passes over it once and leaves, in the user's cache, the place and digest of every
member and a restart point each few megabytes (storage/inflate.py), so that a member of a 1.9 GB archive later costs a
seek. What an archive may cost is limited (settings.ReadLimits): one that holds or claims more is read as far as that.
Knows nothing of datasets or of decoding.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import io
import json
import os
import sqlite3
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Self

from storage.errors import InputError
from storage.inflate import Point, available, inflate_from, inflated
from storage.settings import ReadLimits
from storage.user_cache import user_cache

Progress = Callable[[int], None]
"""progress(bytes of the archive that are read)."""
MARK = "::"
"""Between the path of an archive and the name of a member."""
SUFFIXES = (".tar.gz", ".tgz", ".tar")
CHUNK = 1 << 20
FORMAT = 2
HEADER_ROOM = 1 << 20
"""Bytes that the headers of one member may take: long names, attributes, maps of sparse files."""
RATIO_ROOM = 64 << 20
"""Bytes that even a tiny archive may inflate to."""
MOST_NAME = 1000

TABLES = """
create table if not exists archives (
  path text primary key, size int, mtime_ns int, inode int, problem text, skipped text, limits text);
create table if not exists members (
  archive text, name text, start int, size int, digest text, primary key (archive, name)) without rowid;
create table if not exists points (
  archive text, start int, at int, bits int, window blob, primary key (archive, start)) without rowid;
"""


class ArchiveError(InputError):
    """A member that cannot be read. `reason`: "missing" or "corrupt"."""

    def __init__(self, reason: str, path: str, detail: str):
        super().__init__(reason, path, detail)  # all three, so that it crosses between processes
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[1]}: {self.args[2]}"


@dataclass(frozen=True)
class Listing:
    """Member name -> digest of its content (blake2b, as storage/filestat), and what is wrong with the archive.

    `problem` is empty for a whole archive; of a damaged one, or one beyond the limits, the members that were read
    before it showed are listed. `skipped`: members that are never read, counted by why, with a few names.
    """

    digests: dict[str, str]
    problem: str
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    name: str
    start: int
    size: int
    digest: str


class LimitExceeded(Exception):
    """An archive asks for more than the limits allow: one line."""


@dataclass
class Index:
    members: dict[str, Member] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    problem: str = ""
    skipped: dict[str, list] = field(default_factory=dict)
    """Why -> [how many, the first names]."""

    def skip(self, why: str, name: str) -> None:
        entry = self.skipped.setdefault(why, [0])
        entry[0] += 1
        if len(entry) <= 3:
            entry.append("".join(c if c.isprintable() else "?" for c in name[:80]))

    def skipped_lines(self) -> list[str]:
        """ "2 links: a, b" """
        return [
            f"{count} {why}: {', '.join(names)}{', …' if count > len(names) else ''}"
            for why, (count, *names) in self.skipped.items()
        ]


def is_member(path: str) -> bool:
    return MARK in path


def member_path(archive: str, name: str) -> str:
    return f"{archive}{MARK}{name}"


def split_member(path: str) -> tuple[str, str]:
    """(path of the archive, name of the member)."""
    archive, _, name = path.partition(MARK)
    return archive, name


def list_members(
    root: Path, archive: str, limits: ReadLimits | None = None, progress: Progress | None = None
) -> Listing:
    """The regular files of an archive below `root`. The archive is indexed once; later calls use the cache.

    limits None: those it was indexed with. progress: called while it is indexed.
    """
    name = _indexed(Path(root) / archive, limits, progress)
    database = _database()
    rows = database.execute("select name, digest from members where archive = ?", (name,)).fetchall()
    query = "select problem, skipped from archives where path = ?"
    problem, skipped = database.execute(query, (name,)).fetchone()
    return Listing(dict(rows), problem, tuple(json.loads(skipped)))


def read_member(root: Path, path: str) -> bytes:
    """The content of a member. ArchiveError where it is missing, or its bytes are not those first indexed."""
    archive, name = split_member(path)
    file = Path(root) / archive
    key = _indexed(file)
    member = _find(key, name, path)
    try:
        data = _read(file, key, member)
    except (OSError, EOFError, ValueError) as error:
        raise ArchiveError("corrupt", path, f"cannot be read: {error}") from None
    if _digest(data) != member.digest:
        raise ArchiveError("corrupt", path, "its bytes are not those that were indexed")
    return data


@contextmanager
def local_file(root: Path, path: str) -> Iterator[Path]:
    """A file that decoders can open: `path` below `root` itself, or a member in a temporary file."""
    if not is_member(path):
        yield Path(root) / path
        return
    with tempfile.NamedTemporaryFile(suffix=os.path.splitext(path)[1]) as file:
        file.write(read_member(root, path))
        file.flush()
        yield Path(file.name)


# The cache ---------------------------------------------------------------------------------------------


def _cache_file() -> Path:
    return user_cache() / f"archives-{FORMAT}.sqlite"


def _database() -> sqlite3.Connection:
    return _connection(_cache_file(), os.getpid(), threading.get_ident())


@cache
def _connection(path: Path, process: int, thread: int) -> sqlite3.Connection:
    """One connection for each process and thread, which SQLite asks for; in memory where the home is read-only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=60)
        database.executescript(TABLES)
    except (OSError, sqlite3.DatabaseError):
        database = sqlite3.connect(":memory:")
        database.executescript(TABLES)
    return database


@contextmanager
def _building() -> Iterator[None]:
    """One process at a time indexes an archive; a killed one holds no lock."""
    try:
        file = open(_cache_file().with_suffix(".lock"), "w")  # noqa: SIM115 - closed below
    except OSError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _indexed(file: Path, limits: ReadLimits | None = None, progress: Progress | None = None) -> str:
    """Make sure the cache knows the archive as it is now, within the limits; returns its name there."""
    name = os.path.abspath(file)
    try:
        stat = os.stat(name)
    except OSError as error:
        raise ArchiveError("missing", str(file), f"cannot be read: {error.strerror}") from None
    now = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if not _known(name, now, limits):
        with _building():
            if not _known(name, now, limits):
                limits = limits or ReadLimits()
                _write(name, now, _build(file, limits, progress), limits)
    return name


def _known(name: str, stat: tuple, limits: ReadLimits | None) -> bool:
    query = "select size, mtime_ns, inode, limits from archives where path = ?"
    found = _database().execute(query, (name,)).fetchone()
    return (
        found is not None and found[:3] == stat and (limits is None or found[3] == limits.model_dump_json())
    )


def _write(name: str, stat: tuple, index: Index, limits: ReadLimits) -> None:
    with _database() as database:
        for table in ("members", "points"):
            database.execute(f"delete from {table} where archive = ?", (name,))
        database.executemany(
            "insert into members values (?, ?, ?, ?, ?)",
            [(name, m.name, m.start, m.size, m.digest) for m in index.members.values()],
        )
        database.executemany(
            "insert or replace into points values (?, ?, ?, ?, ?)",
            [(name, p.start, p.at, p.bits, p.window) for p in index.points],
        )
        database.execute(
            "insert or replace into archives values (?, ?, ?, ?, ?, ?, ?)",
            (name, *stat, index.problem, json.dumps(index.skipped_lines()), limits.model_dump_json()),
        )


def _find(archive: str, name: str, path: str) -> Member:
    query = "select name, start, size, digest from members where archive = ? and name = ?"
    row = _database().execute(query, (archive, name)).fetchone()
    if row is None:
        raise ArchiveError("missing", path, "no such member")
    return Member(*row)


# Passing over an archive -------------------------------------------------------------------------------


def _build(file: Path, limits: ReadLimits, progress: Progress | None = None) -> Index:
    index = Index()
    with open(file, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        size = os.fstat(raw.fileno()).st_size
        most = size * limits.archive_ratio + RATIO_ROOM if packed else size
        source = _Blocks(inflated(raw, index.points) if packed else iter(lambda: raw.read(CHUNK), b""))
        try:
            with tarfile.open(fileobj=source, mode="r|", tarinfo=_Header) as archive:
                for number, entry in enumerate(archive, start=1):
                    archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
                    if number > limits.members:
                        raise LimitExceeded(f"more than data.limits.members={limits.members} members")
                    source.allow(_end_of(entry, most, limits, packed))
                    _take(archive, entry, index, limits)
                    if progress is not None:
                        progress(raw.tell())
        except LimitExceeded as error:
            index.problem = f"read as far as {len(index.members)} members: {error}"
        except DAMAGE as error:
            index.problem = f"damaged, noticed after {len(index.members)} members: {error}; download it again"
    return index


DAMAGE = (
    tarfile.TarError,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    IndexError,
    KeyError,
    TypeError,
    RecursionError,
)
"""What tarfile and zlib raise on invalid bytes."""


def _end_of(entry: tarfile.TarInfo, most: int, limits: ReadLimits, packed: bool) -> int:
    """Where a member's data end. LimitExceeded: it is sparse, or claims more than the whole archive can hold."""
    if entry.issparse():
        raise LimitExceeded(f"{entry.name[:80]!r} is a sparse file, which is not read")
    end = entry.offset_data + (entry.size if entry.isreg() else 0)
    if end > most:
        if not packed:
            raise EOFError(f"{entry.name[:80]!r} is cut off")
        raise LimitExceeded(
            f"{entry.name[:80]!r} inflates to {end / 2**20:.0f} MB, more than data.limits.archive_ratio="
            f"{limits.archive_ratio} times the file"
        )
    return end


def _take(archive: tarfile.TarFile, entry: tarfile.TarInfo, index: Index, limits: ReadLimits) -> None:
    """Add one member to the index, or note why it is never read."""
    name = entry.name.removeprefix("./")
    if entry.isdir():
        return
    if not entry.isreg():
        index.skip("links and devices", name)
    elif not name.isprintable() or len(name) > MOST_NAME or MARK in name:
        index.skip("members without a plain name", name)
    elif name.startswith("/") or ".." in name.split("/"):
        index.skip("members that lead out of the archive's folder", name)
    elif entry.size > limits.member_mb << 20:
        index.skip(f"members of more than data.limits.member_mb={limits.member_mb}", name)
    else:
        content = archive.extractfile(entry)
        data = b"" if content is None else content.read()
        if len(data) != entry.size:
            raise EOFError(f"{entry.name} is cut off")
        index.members[name] = Member(name, entry.offset_data, entry.size, _digest(data))


NO_HEADER = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]  # not in its stub


class _Header(tarfile.TarInfo):
    """An invalid header is damage: tarfile itself would take it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except NO_HEADER as error:
            raise tarfile.ReadError(str(error)) from None


class _Blocks(io.BufferedIOBase):
    """A generator of bytes as the stream that tarfile reads, with a limit on headers."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks, self._left, self._taken = blocks, b"", 0
        self._most = HEADER_ROOM

    def allow(self, end: int) -> None:
        """Data may be read as far as byte `end`, and one member's headers behind it."""
        self._most = end + HEADER_ROOM

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None and size >= 0, "read block by block"
        parts, have = [self._left], len(self._left)
        while have < size and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            have += len(block)
        data = b"".join(parts)
        self._left = data[size:]
        self._taken += len(data[:size])
        if self._taken > self._most + tarfile.RECORDSIZE:
            raise LimitExceeded(f"the headers of one member take more than {HEADER_ROOM >> 20} MB")
        return data[:size]


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()


def _read(file: Path, archive: str, member: Member) -> bytes:
    query = "select start, at, bits, window from points where archive = ? and start <= ? order by start desc limit 1"
    row = _database().execute(query, (archive, member.start)).fetchone()
    with open(file, "rb") as raw:
        if row is not None and available():
            data = inflate_from(raw, Point(*row), member.start, member.size)
            if len(data) == member.size:
                return data
        raw.seek(0)
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        with gzip.open(raw) if packed else contextlib.nullcontext(raw) as whole:
            whole.seek(member.start)
            return whole.read(member.size)
