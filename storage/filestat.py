"""A stat cache: content digests of files, recomputed only where size, time or inode changed.

One SQLite file holds (path, size, mtime_ns, inode) -> digest, each row with a checksum; it is read once and written
once, and a damaged row is ignored. Knows nothing of what the files are.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

TABLE = (
    "create table if not exists stats "
    "(path text primary key, size int, mtime_ns int, inode int, digest text, crc int)"
)
COLUMNS = "path, size, mtime_ns, inode, digest"
OLD_TABLE = "files"
"""Version of caches without checksums; their content is written again, with checksums."""
# Two writes within one clock tick leave one time stamp, so a file this young is not trusted later.
YOUNG_NS = 50_000_000
CHUNK = 1 << 20

Stat = tuple[int, int, int]
Reading = Callable[[int], None]


class StatCache:
    """Digest of files by path; an unchanged file costs one stat.

    `rehash=True` distrusts every record of earlier runs and reads each file again. `hashed` counts the files
    read by this object. Threads may share one.
    """

    def __init__(self, path: Path, rehash: bool = False):
        self.path = Path(path)
        self.hashed = 0
        self._saving = threading.Lock()
        self._changed: dict[str, tuple[Stat, str]] = {}
        self._known: dict[str, tuple[Stat, str]] = {}
        self._damaged = False
        if not rehash:
            self._load()

    def _load(self) -> None:
        try:
            self._known, checked = _read(self.path)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            # Every record can be computed again.
            self._damaged = getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY
            return
        if not checked:
            self._changed = dict(self._known)

    def to_read(self, path: Path | str) -> int:
        """The bytes that `digest` would read of the file now. FileNotFoundError where there is none."""
        name = os.path.abspath(path)
        now, known = _stat(name), self._known.get(name)
        return 0 if known is not None and known[0] == now else now[0]

    def digest(self, path: Path | str, reading: Reading = lambda size: None) -> str:
        """blake2b (128 bit, hex) of the file's content; reading(bytes) after each part that is read.

        FileNotFoundError where there is no file.
        """
        name = os.fspath(path)
        if not os.path.isabs(name):
            name = os.path.abspath(name)
        now = _stat(name)
        known = self._known.get(name)
        if known is not None and known[0] == now:
            return known[1]
        value, settled = _read_digest(name, reading)
        self.hashed += 1
        after = _stat(name)
        if settled and after == now:
            self._known[name] = self._changed[name] = (now, value)
        return value

    def save(self) -> None:
        """Write what is new; other processes' records stay. Cheap where nothing is new."""
        with self._saving:
            changed, self._changed = self._changed, {}
            if not changed:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                (name, *stat, value, _crc(name, stat, value))
                for name, (stat, value) in sorted(changed.items())
            ]
            try:
                if self._damaged:
                    self.path.unlink(missing_ok=True)
                    self._damaged = False
                _write(self.path, rows)
            except (sqlite3.DatabaseError, UnicodeDecodeError):
                # The file is no database. It holds nothing that cannot be computed again.
                self.path.unlink(missing_ok=True)
                _write(self.path, rows)


def content_digest(path: Path, reading: Reading = lambda size: None) -> str:
    """blake2b (128 bit, hex) of a file's content; reading(bytes) after each part that is read."""
    state = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
            reading(len(chunk))
    return state.hexdigest()


def _read_digest(name: str, reading: Reading) -> tuple[str, bool]:
    """The digest, and whether the file had been left alone long enough to trust its time stamp."""
    settled = time.time_ns() - os.stat(name).st_mtime_ns > YOUNG_NS
    return content_digest(Path(name), reading), settled


def _stat(name: str) -> Stat:
    stat = os.stat(name)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino)


def cache_fault(path: Path) -> str | None:
    """What is wrong with a cache's file, in a few words; None where all its rows match their checks, or there is none."""
    try:
        if not path.exists():
            return None
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            if _table(database) == OLD_TABLE:
                return None
            rows = database.execute(f"select {COLUMNS}, crc from stats").fetchall()
        bad = sum(not _holds(row) for row in rows)
        return f"{bad} of {len(rows)} rows damaged" if bad else None
    except (sqlite3.DatabaseError, UnicodeDecodeError, OSError) as error:
        return ascii(str(error))[1:-1]


def _crc(name: str, stat: Stat, value: str) -> int:
    """Guards against bit rot, not malice: who can write here can write the files too."""
    return zlib.crc32("{}\0{}\0{}\0{}\0{}".format(name, *stat, value).encode(errors="surrogateescape"))


def _holds(row: tuple) -> bool:
    return row[5] == _crc(row[0], row[1:4], row[4])


def _table(database: sqlite3.Connection) -> str | None:
    """The table that the records are in; None for a new file."""
    names = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
    return "stats" if "stats" in names else OLD_TABLE if OLD_TABLE in names else None


def _read(path: Path) -> tuple[dict[str, tuple[Stat, str]], bool]:
    """The records that are whole, and whether they have checks."""
    if not path.exists():
        return {}, True
    with closing(sqlite3.connect(path, timeout=30)) as database:
        table = _table(database)
        if table is None:
            return {}, True
        checked = table != OLD_TABLE
        columns = f"{COLUMNS}, crc" if checked else COLUMNS
        rows = database.execute(f"select {columns} from {table}").fetchall()
    return {row[0]: (row[1:4], row[4]) for row in rows if not checked or _holds(row)}, checked


def _write(path: Path, rows: list[tuple]) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.execute(TABLE)
        database.executemany("insert or replace into stats values (?, ?, ?, ?, ?, ?)", rows)
        database.execute(f"drop table if exists {OLD_TABLE}")
