"""The runs of a store: a small record each, written when it starts and when it ends.

    runs/ID.json   what was asked for, when, and what became of it; with a digest of itself
    runs/ID.lock   held by the run's process as long as it lives, so that a killed one is known as such

An id is the time of the start and six random digits; it is claimed by creating the lock's file, which only one can.
The latest KEPT records stay. What is read is checked; a record that cannot be read is named and stops nothing.
Knows nothing of Prefect or of what stages do.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import AwareDatetime, BaseModel, ValidationError

from storage.errors import InputError
from storage.files import on_store
from storage.store import canonical, digest_bytes, write_atomic, writing
from tasks.engine.versions import commit

VERSION: Final = 3
KEPT = 100
ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
ERROR_CHARACTERS = 300
"""Characters of an error's line that are kept."""


class RunRecord(BaseModel, frozen=True, extra="forbid"):
    """One run. Times are UTC. raw None: the sample corpus; paths are absolute.

    state: "running" in the file of a run that never ended is reported as "killed". report, page: digests of the
    artefacts report.json and report.html, where the run came to one. seconds: of work by stage, items added up.
    commit: of the code that ran, None in records of version 1. number: one more than the largest that the store knew when the run
    began, 0 in records before version 3: which run is the later one, whatever the machines' clocks say.
    """

    version: Literal[1, 2, 3] = VERSION
    id: str
    number: int = 0
    started: AwareDatetime
    ended: AwareDatetime | None = None
    state: Literal["running", "finished", "failed", "stopped", "killed"] = "running"
    profile: str
    changes: tuple[str, ...] = ()
    raw: str | None = None
    until: str | None = None
    report: str | None = None
    page: str | None = None
    commit: str | None = None
    seconds: dict[str, float] = {}
    said: str = ""

    @property
    def took_s(self) -> float | None:
        """Seconds from start to end; None while the run has not ended."""
        if self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()


class RunRecorder:
    """The record of the run in progress in this process."""

    def __init__(self, root: Path, record: RunRecord):
        self.root, self.record = root, record

    def update(self, **facts) -> None:
        """Replace some of the record's fields and write it."""
        self.record = self.record.model_copy(update=facts)
        _write(self.root, self.record)


@contextlib.contextmanager
def recorded(
    root: Path, profile: str, changes: tuple[str, ...], raw: str | None, until: str | None
) -> Iterator[RunRecorder]:
    """Within the block the store has a running run; at its end its outcome is recorded. StoreError in a read-only
    store.
    """
    root = Path(root)
    run_id, lock = _claimed(root)
    with lock:
        number = 1 + max((known.number for known in runs(root)[0]), default=0)
        record = RunRecord(
            id=run_id, number=number, started=_now(), profile=profile, changes=changes, raw=raw, until=until, commit=commit()
        )  # fmt: skip
        note = RunRecorder(root, record)
        _write(root, record)
        _prune(root)
        facts: dict = {"state": "finished"}
        try:
            yield note
        except BaseException as error:
            failed = isinstance(error, Exception) and not isinstance(error, concurrent.futures.CancelledError)
            facts = {
                "state": "failed" if failed else "stopped",
                "said": (str(error) or type(error).__name__)[:ERROR_CHARACTERS],
            }
            raise
        finally:
            # A full disk leaves "running" in the file, which without its process reads as killed.
            with contextlib.suppress(Exception) if facts["state"] != "finished" else contextlib.nullcontext():
                note.update(ended=max(_now(), record.started), **facts)  # a clock may be set back meanwhile
            _lock_path(root, run_id).unlink(missing_ok=True)


def runs(root: Path) -> tuple[list[RunRecord], dict[str, str]]:
    """The store's runs, latest first, and what is wrong with the records that cannot be read, by their names."""
    found, unreadable = [], {}
    for path in sorted(_folder(root).glob("*.json")):
        try:
            found.append(_read(root, path))
        except ValueError as error:
            unreadable[path.name] = str(error)
    return sorted(found, key=lambda one: (one.number, one.started, one.id), reverse=True), unreadable


def run_of(root: Path, wanted: str | None, option: str = "--run") -> RunRecord:
    """The run of this id, or of an id that begins so; None: the last. InputError, in one line, where there is none.

    option: by which it was asked for, as the error names it.
    """
    found, unreadable = runs(root)
    if wanted is None:
        if found:
            return found[0]
        unread = f" ({len(unreadable)} records cannot be read)" if unreadable else ""
        raise InputError(f"no run in {root}{unread}: {on_store('run', root)} makes one")
    meant = [record for record in found if record.id.startswith(wanted)]
    if len(meant) == 1:
        return meant[0]
    if f"{wanted}.json" in unreadable:
        raise InputError(f"run {wanted} in {root}: its record {unreadable[f'{wanted}.json']}")
    fault = f"{len(meant)} runs begin so" if meant else "no such run"
    raise InputError(f"{option} {wanted}: {fault} in {root}; {on_store('runs', root)} lists them")


def drop_unreadable(root: Path) -> None:
    """Remove the records that cannot be read; those of a later version stay."""
    for name, fault in runs(root)[1].items():
        if fault != LATER:
            (_folder(root) / name).unlink(missing_ok=True)


def worked_seconds(root: Path, stage: str) -> float | None:
    """What the stage took in the latest run that computed any of it; None where no record says."""
    return next((r.seconds[stage] for r in runs(root)[0] if stage in r.seconds), None)


LATER = "was written by a later version of Empamba"


def _read(root: Path, path: Path) -> RunRecord:
    """The record in a file. ValueError says what is wrong."""
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        raise ValueError("is no JSON") from None
    if not isinstance(facts, dict):
        raise ValueError("is no record")
    if isinstance(facts.get("version"), int) and facts["version"] > VERSION:
        raise ValueError(LATER)
    check = facts.pop("check", None)
    try:
        record = RunRecord.model_validate(facts)
    except ValidationError:
        raise ValueError("is no record") from None
    # Of the facts as they lie there: a record of an earlier version has fewer.
    if check != digest_bytes(canonical(facts)) or path.stem != record.id or not ID.fullmatch(record.id):
        raise ValueError("does not match its digest")
    if record.state == "running" and not _lives(root, record.id):
        return record.model_copy(update={"state": "killed"})
    return record


def _write(root: Path, record: RunRecord) -> None:
    facts = record.model_dump(mode="json")
    checked = {**facts, "check": digest_bytes(canonical(facts))}
    write_atomic(_folder(root) / f"{record.id}.json", canonical(checked))


def _claimed(root: Path):
    """A new id and its lock, held by this process."""
    folder = _folder(root)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    while True:
        run_id = f"{_now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        path = _lock_path(root, run_id)
        with writing(path):
            try:
                file = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644), "r+")
            except FileExistsError:
                continue
        fcntl.flock(file, fcntl.LOCK_EX)
        return run_id, file


def _lives(root: Path, run_id: str) -> bool:
    """Whether the run's process still holds its lock."""
    try:
        with open(_lock_path(root, run_id), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _prune(root: Path) -> None:
    """Forget all but the latest KEPT runs that have ended, and locks that killed ones left."""
    ended = [record.id for record in runs(root)[0] if record.state != "running"]
    for run_id in ended[KEPT:]:
        (_folder(root) / f"{run_id}.json").unlink(missing_ok=True)
        _lock_path(root, run_id).unlink(missing_ok=True)


def _folder(root: Path) -> Path:
    return Path(root) / "runs"


def _lock_path(root: Path, run_id: str) -> Path:
    return _folder(root) / f"{run_id}.lock"


def _now() -> datetime:
    return datetime.now(UTC)
