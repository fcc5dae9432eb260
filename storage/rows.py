"""Finished rows of a stage, one SQLite file: digest of a row's own inputs -> bytes, each with a check of its own.

A damaged row is never returned: it is counted, and computed again. Knows nothing of what rows hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from storage.files import REPAIR, TEMPORARY, UnreadableError, on_store, shown, writing

LOG = logging.getLogger(__name__)
VERSION = 1
"""SQLite user_version of a file with checksums. 0: none yet; they are computed when it is first opened for writing.
"""

DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading a damaged file raises: SQLite's own message may hold bytes of it that are no text."""

SIDES = ("-wal", "-shm")
"""Suffixes of the files SQLite leaves beside one that was not closed."""


def row_check(key: str, value: bytes) -> bytes | None:
    """Digest of a row; None for what cannot be a row."""
    if not isinstance(key, str) or not isinstance(value, bytes):
        return None
    return hashlib.blake2b(key.encode() + b"\0" + value, digest_size=16).digest()


def _is_whole(key: str, value: bytes, check: bytes | None) -> bool:
    return check is not None and row_check(key, value) == check


class RowStore:
    """Finished rows of one stage. Each put is durable on return. UnreadableError where the file itself is damaged.

    damaged: rows that were asked for and do not match their check; they count as missing.
    only: the keys that count, which every put adds to; None: all that are there.
    """

    def __init__(self, path: Path, only: set[str] | None = None):
        self.path, self.damaged, self._only = path, 0, only
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _naming(path):
                self.connection = sqlite3.connect(path, timeout=60, check_same_thread=False)
                self.connection.execute("pragma trusted_schema=off")
                self.connection.execute("pragma journal_mode=wal")
                _prepare(self.connection)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        found = {}
        keys = [key for key in dict.fromkeys(keys) if self._only is None or key in self._only]
        with _naming(self.path):
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                for key, value, check in self.connection.execute(
                    f"{_SELECT} where rows.key in ({marks})", part
                ):
                    if _is_whole(key, value, check):
                        found[key] = value
                    else:
                        self.damaged += 1
        return found

    def put(self, key: str, value: bytes) -> None:
        with writing(self.path), _naming(self.path), self.connection:
            self.connection.execute("insert or replace into rows values (?, ?)", (key, value))
            self.connection.execute(
                "insert or replace into checks values (?, ?)", (key, row_check(key, value))
            )
        if self._only is not None:
            self._only.add(key)

    def close(self) -> None:
        if self.damaged:
            LOG.warning("%s: %d damaged rows were made again", self.path, self.damaged)
        self.connection.close()


_SELECT = "select rows.key, rows.value, checks.digest from rows left join checks using (key)"


def _prepare(connection: sqlite3.Connection) -> None:
    """Create the tables, and compute the checksums of a file written without them."""
    if _checked(connection):
        connection.execute(f"{_SELECT} limit 0")
        return
    connection.create_function("row_check", 2, row_check)
    with connection:  # all or nothing: a file with the table of checks has all of them
        connection.execute("begin immediate")
        connection.execute("create table if not exists rows(key text primary key, value blob) without rowid")
        connection.execute("create table checks(key text primary key, digest blob) without rowid")
        connection.execute("insert into checks select key, row_check(key, value) from rows")
        connection.execute(f"pragma user_version={VERSION}")


def _checked(connection: sqlite3.Connection) -> bool:
    """Whether the file has checks. DatabaseError where that is in doubt: unchecked rows must not be trusted."""
    (version,) = connection.execute("pragma user_version").fetchone()
    (tables,) = connection.execute("select count(*) from sqlite_master where name = 'checks'").fetchone()
    if (version, tables) not in ((0, 0), (VERSION, 1)):
        raise sqlite3.DatabaseError(f"its form is {version}, with {tables} tables of checks")
    return bool(tables)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """UnreadableError, with the file's name, for what SQLite says of a damaged one."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, sqlite3.OperationalError) and not _tells_of_damage(error):
            raise
        raise UnreadableError(
            f"{path}: damaged ({shown(str(error))}); {on_store(REPAIR, path.parents[1])} keeps the rows that are whole"
        ) from error


def _tells_of_damage(error: sqlite3.OperationalError) -> bool:
    """No table, no column, no UTF-8: SQLite calls these operational too, like a full disk or a lock."""
    code = getattr(error, "sqlite_errorcode", None)
    return code in (None, sqlite3.SQLITE_ERROR)


# Checking and mending ---------------------------------------------------------------------------------


def rows_fault(path: Path) -> str | None:
    """What is wrong with a file of rows, in a few words; None where every row matches its check. Writes nothing."""
    in_use = _in_use(path)
    fault = _fault(path)
    # A run that began meanwhile may have moved what was being read.
    return _fault(path) if fault and _in_use(path) and not in_use else fault


def _fault(path: Path) -> str | None:
    try:
        with closing(_open_to_read(path)) as database:
            problem = database.execute("pragma quick_check(1)").fetchone()[0]
            if problem != "ok":
                return shown(str(problem).splitlines()[0])
            if not _checked(database):  # written before there were any
                database.execute("select key, value from rows").fetchall()
                return None
            total, bad = 0, 0
            for row in _all_rows(database):
                total, bad = total + 1, bad + (not _is_whole(*row))
            lost = "select count(*) from checks where key not in (select key from rows)"
            bad += database.execute(lost).fetchone()[0]
            return f"{bad} of {total} rows damaged" if bad else None
    except (*DAMAGE, OSError) as error:
        return shown(str(error))


def mend_rows(path: Path) -> None:
    """Keep the rows that can be read and match their check; nothing else of the file is kept. Nobody may be using it."""
    draft = path.with_name(f"{TEMPORARY}{path.name}")
    _remove(draft)
    try:
        kept = RowStore(draft)
        with contextlib.suppress(*DAMAGE), closing(_open_to_read(path)) as database:
            with kept.connection:
                kept.connection.executemany("insert or replace into rows values (?, ?)", _readable(database))
        kept.connection.create_function("row_check", 2, row_check)
        with kept.connection:
            kept.connection.execute(
                "insert or replace into checks select key, row_check(key, value) from rows"
            )
        kept.connection.execute("pragma journal_mode=delete")
        kept.close()
        for side in SIDES:
            path.with_name(path.name + side).unlink(missing_ok=True)
        os.replace(draft, path)
    finally:
        _remove(draft)


def _readable(database: sqlite3.Connection) -> Iterator[tuple[str, bytes]]:
    """Rows that match their check, from either end as far as the file can be read; of a file from before checks all."""
    try:
        checked = _checked(database)
    except DAMAGE:
        checked = True
    for order in ("asc", "desc"):
        with contextlib.suppress(*DAMAGE):
            for key, value, check in _all_rows(database, order, checked):
                if _is_whole(key, value, check) or not checked and row_check(key, value) is not None:
                    yield key, value


def _all_rows(database: sqlite3.Connection, order: str = "asc", checked: bool = True) -> Iterator[tuple]:
    """(key, value, digest)."""
    select = _SELECT if checked else "select key, value, null from rows"
    return iter(database.execute(f"{select} order by rows.key {order}"))


def _in_use(path: Path) -> bool:
    """Whether the write-ahead log holds rows: some process has the file open, or was killed."""
    log = path.with_name(path.name + SIDES[0])
    return log.exists() and log.stat().st_size > 0


def _open_to_read(path: Path) -> sqlite3.Connection:
    """Opened so that nothing is written; where there is no log, nothing is left beside the file either."""
    options = "mode=ro" if _in_use(path) else "immutable=1"
    database = sqlite3.connect(f"file:{quote(str(path))}?{options}", uri=True, timeout=60)
    try:
        database.execute("pragma trusted_schema=off")
    except DAMAGE:
        database.close()
        raise
    return database


def _remove(path: Path) -> None:
    for side in ("", *SIDES):
        path.with_name(path.name + side).unlink(missing_ok=True)
