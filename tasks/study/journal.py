"""What participants do, in one SQLite file: judgements and events are only ever added, and durable before they are answered.

One thread holds the connection. What waits meanwhile is done in one transaction, and so shares its wait for the disk; each
job of it stands or falls alone. Knows nothing of pages or of the network.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from storage.errors import InputError
from storage.files import shown

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
AT_ONCE = 256
"""Most jobs of one transaction."""
VERSION = 2
"""2 knows a place that the researcher gave back from one whose time ran out (`dismissed`)."""

TABLES = """
create table if not exists participants (
  id integer primary key, token text not null unique, place int not null,
  prolific text, study text, session text, seen real not null, begun real, completed real, released real,
  dismissed int not null default 0);
create unique index if not exists one_participant_a_place on participants (place) where released is null;
create table if not exists judgements (
  id integer primary key, participant int not null references participants, item text not null, system text not null,
  question text not null, value int not null, click text not null, after_ms int, at real not null,
  unique (participant, item, system, question, click));
create table if not exists events (
  id integer primary key, participant int not null references participants, item text, turn int, kind text not null,
  detail text, at real not null);
create trigger if not exists judgements_stay before update on judgements
  begin select raise(abort, 'judgements are only ever added'); end;
create trigger if not exists judgements_are_kept before delete on judgements
  begin select raise(abort, 'judgements are only ever added'); end;
"""


class Journal:
    """The file, opened for writing. Its jobs are done in the order in which they came."""

    def __init__(self, path: Path):
        self.path = path
        self._jobs: queue.SimpleQueue[tuple[Job, Future] | None] = queue.SimpleQueue()
        self._connection = opened(path)
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def submit(self, job: Job[T]) -> Future[T]:
        """The job's result, once what it wrote is on the disk; or its error, and nothing of it is written."""
        future: Future = Future()
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """After all that was submitted."""
        self._jobs.put(None)
        self._thread.join()
        self._connection.close()

    def _work(self) -> None:
        closing_ = False
        while not closing_:
            batch, waiting = [], self._jobs.get()
            while True:
                if waiting is None:
                    closing_ = True
                    break
                batch.append(waiting)
                if len(batch) == AT_ONCE:
                    break
                try:
                    waiting = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._do(batch)

    def _do(self, batch: list[tuple[Job, Future]]) -> None:
        done: list[tuple[Future, Any, BaseException | None]] = []
        try:
            self._connection.execute("begin immediate")
            for job, future in batch:
                done.append((future, *self._one(job)))
            self._connection.execute("commit")
        except (
            BaseException
        ) as error:  # a full disk: nothing of the batch is written, and nobody is told that it is
            if self._connection.in_transaction:
                self._connection.execute("rollback")
            done = [(future, None, error) for _, future in batch]
        for future, result, failure in done:
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

    def _one(self, job: Job) -> tuple[Any, BaseException | None]:
        self._connection.execute("savepoint one")
        try:
            result = job(self._connection)
        except Exception as error:
            self._connection.execute("rollback to one")
            self._connection.execute("release one")
            return None, error
        self._connection.execute("release one")
        return result, None


def opened(path: Path) -> sqlite3.Connection:
    """The file for writing, made where it is not there. InputError where it is no journal of this version."""
    try:
        connection = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
        connection.execute("pragma trusted_schema=off")
        connection.execute("pragma journal_mode=wal")
        connection.execute(
            "pragma synchronous=full"
        )  # a commit is on the disk, and not with the system alone
        connection.execute("pragma foreign_keys=on")
        version = _version(connection)
        if version not in (0, 1, VERSION):
            connection.close()
            raise InputError(
                f"{shown(path)}: written by another version of Empamba ({version}): use that one"
            )
        if version == 1:
            _upgrade(connection)
        connection.executescript(TABLES)
        connection.execute(f"pragma user_version={VERSION}")
        os.chmod(path, 0o600)  # it holds the participants' links
    except (sqlite3.DatabaseError, OSError) as error:
        raise InputError(f"{shown(path)}: cannot be used: {shown(str(error))}") from None
    return connection


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("pragma user_version").fetchone()
    return version


def _upgrade(connection: sqlite3.Connection) -> None:
    """From version 1, in which nobody can tell who gave a place back: all count as timed out, as they did then."""
    connection.execute("begin immediate")
    if _version(connection) == 1:  # and no other process was faster
        connection.execute("alter table participants add column dismissed int not null default 0")
        connection.execute(f"pragma user_version={VERSION}")
    connection.execute("commit")


def read_from(path: Path, job: Job[T]) -> T:
    """What a job reads, from a file that a server may be writing. InputError where there is none, or it is damaged."""
    if not path.is_file():
        raise InputError(
            f"{shown(path)}: nobody has judged anything yet; `empamba study serve` takes judgements"
        )
    try:
        with closing(opened(path)) as connection:
            connection.execute("begin")
            return job(connection)
    except sqlite3.DatabaseError as error:
        raise InputError(f"{shown(path)}: cannot be read: {shown(str(error))}") from None
