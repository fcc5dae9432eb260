"""Finished rows on their way to a bucket and from it: segments, each a Parquet file that is written once.

A stage's file of rows (storage/rows) notes which of its rows no segment holds yet (by a trigger, so that whoever writes rows
need not know of buckets) and which segments it has taken in. A segment is named by the digest of its bytes. What a
segment holds is data, not trusted: its form is checked, and a row that is here already stays.
"""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator
from typing import Any

from storage.rows import RowStore, row_check

MOST_ROWS, MOST_BYTES = 50_000, 64 * 2**20
"""Of one segment. A single row of more is a segment by itself."""
LARGEST = 512 * 2**20
"""Bytes of a segment that is read at most, also once it is unpacked."""


class Segments:
    """What a stage's file of rows has in common with a bucket."""

    def __init__(self, rows: RowStore):
        self._database = rows.connection
        with self._database:
            self._database.execute("begin immediate")
            known = "select count(*) from sqlite_master where name = 'unshared'"
            if self._database.execute(known).fetchone() == (0,):
                _note_rows(self._database)

    def taken(self) -> set[str]:
        """Names of the segments whose rows are here."""
        return {name for (name,) in self._database.execute("select name from segments")}

    def unshared(self) -> Iterator[tuple[list[str], bytes]]:
        """Keys of rows that no segment holds, and a segment of them, until there are none. Each must be `shared` before the next."""
        while rows := self._next():
            keys = [key for key, _ in rows]
            whole = [(key, value) for key, value in rows if value is not None]
            yield keys, packed(whole) if whole else b""

    def shared(self, keys: list[str], name: str | None) -> None:
        """Note that the segment of that name holds these rows; None where none of them was whole."""
        with self._database:
            self._forget(keys)
            if name is not None:
                self._database.execute("insert or ignore into segments values (?)", (name,))

    def take(self, name: str, data: bytes) -> int:
        """Take in a segment's rows; how many it holds. ValueError where it is none."""
        rows = unpacked(data)
        with self._database:
            self._database.executemany("insert or ignore into rows values (?, ?)", rows)
            checks = ((key, row_check(key, value)) for key, value in rows)
            self._database.executemany("insert or ignore into checks values (?, ?)", checks)
            self._forget([key for key, _ in rows])
            self._database.execute("insert or ignore into segments values (?)", (name,))
        return len(rows)

    def _next(self) -> list[tuple[str, bytes | None]]:
        """Rows that no segment holds, in the order of their keys, as many as one takes; None for the value of a damaged one."""
        found: list[tuple[str, bytes | None]] = []
        size = 0
        for key, value, check in self._database.execute(
            "select unshared.key, rows.value, checks.digest from unshared left join rows using (key) "
            "left join checks using (key) order by unshared.key"
        ):
            whole = value is not None and row_check(key, value) == check
            size += len(value) if whole else 0
            if found and size > MOST_BYTES:
                break
            found.append((key, value if whole else None))
            if len(found) == MOST_ROWS:
                break
        return found

    def _forget(self, keys: list[str]) -> None:
        self._database.executemany("delete from unshared where key = ?", ((key,) for key in keys))


def _note_rows(database: sqlite3.Connection) -> None:
    """All rows that are here, and from now on every one that is put, as held by no segment."""
    database.execute("create table segments(name text primary key) without rowid")
    database.execute("create table unshared(key text primary key) without rowid")
    database.execute("insert into unshared select key from rows")
    database.execute(
        "create trigger put after insert on rows begin insert or ignore into unshared values (new.key); end"
    )


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([("key", pa.string()), ("value", pa.binary())])


def packed(rows: list[tuple[str, bytes]]) -> bytes:
    """A segment's bytes."""
    import pyarrow as pa  # which a command that looks at no row does not need
    import pyarrow.parquet as pq

    keys, values = zip(*rows, strict=True)
    sink = io.BytesIO()
    pq.write_table(pa.table([list(keys), list(values)], schema=_schema()), sink, compression="zstd")
    return sink.getvalue()


def unpacked(data: bytes) -> list[tuple[str, bytes]]:
    """A segment's rows. ValueError where it is no segment, or too large a one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        size = sum(file.metadata.row_group(n).total_byte_size for n in range(file.metadata.num_row_groups))
        if not file.schema_arrow.equals(_schema()) or size > LARGEST:
            raise ValueError("it is no table of keys and values, or too large a one")
        table = file.read()
        found = list(zip(table["key"].to_pylist(), table["value"].to_pylist(), strict=True))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error).splitlines()[0][:200]) from None
    if any(row_check(key, value) is None for key, value in found):
        raise ValueError("a key or a value is missing")
    return found
