"""A stat cache: content digests of files, recomputed only where size, time or inode changed.

One SQLite file holds (path, size, mtime_ns, inode) -> digest; it is read once and written once. Knows
nothing of what the files are.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

TABLE = (
    "create table if not exists files (path text primary key, size int, mtime_ns int, inode int, digest text)"
)
# Two writes within one clock tick leave one time stamp, so a file this young is not trusted later.
YOUNG_NS = 50_000_000
CHUNK = 1 << 20

Stat = tuple[int, int, int]


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
        self._known: dict[str, tuple[Stat, str]] = {} if rehash else _load(self.path)

    def digest(self, path: Path | str) -> str:
        """blake2b (128 bit, hex) of the file's content. FileNotFoundError where there is none."""
        name = os.fspath(path)
        if not os.path.isabs(name):
            name = os.path.abspath(name)
        now = _stat(name)
        known = self._known.get(name)
        if known is not None and known[0] == now:
            return known[1]
        value, settled = _read_digest(name)
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
            rows = [(name, *stat, value) for name, (stat, value) in sorted(changed.items())]
            try:
                _write(self.path, rows)
            except sqlite3.DatabaseError:
                # The file is no database. It holds nothing that cannot be computed again.
                self.path.unlink(missing_ok=True)
                _write(self.path, rows)


def content_digest(path: Path) -> str:
    """blake2b (128 bit, hex) of a file's content."""
    state = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()


def _read_digest(name: str) -> tuple[str, bool]:
    """The digest, and whether the file had been left alone long enough to trust its time stamp."""
    settled = time.time_ns() - os.stat(name).st_mtime_ns > YOUNG_NS
    return content_digest(Path(name)), settled


def _stat(name: str) -> Stat:
    stat = os.stat(name)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _load(path: Path) -> dict[str, tuple[Stat, str]]:
    if not path.exists():
        return {}
    try:
        with closing(sqlite3.connect(path, timeout=30)) as database:
            rows = database.execute("select path, size, mtime_ns, inode, digest from files").fetchall()
    except sqlite3.DatabaseError:
        return {}  # every record can be computed again
    return {row[0]: (row[1:4], row[4]) for row in rows}


def _write(path: Path, rows: list[tuple]) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.execute(TABLE)
        database.executemany("insert or replace into files values (?, ?, ?, ?, ?)", rows)
