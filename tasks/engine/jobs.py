"""An item as plain data, on its way to the process that runs it, and what that process tells back.

A job and its answers are JSON, so that a pipe carries them as a cluster does. The answers of a job, in order:

    {"progress": [step, steps, figures]}, {"log": a line for people}    any number
    {"done": artefacts} or {"failed": why, "usage": …, "passing": …}    once; none where the process died
    {"ended": its exit code, "log_path": …, "silent": …}                last

Knows nothing of processes, of keys or of records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import BaseModel

from storage.child_process import how_it_ended
from storage.files import store_name
from storage.store import Ref
from tasks.engine.item import Item
from tasks.settings import RunSettings

Progress = Callable[[int, int, dict[str, float]], None]
LineCallback = Callable[[str], None]
"""Called with a message for people."""
EVENTS = 12
"""Characters of an item's key that name the folder of its curves."""


def ignore_line(line: str) -> None:
    """Ignores the line."""


class StageFailed(RuntimeError):
    """A stage's item failed; the message names stage, item and cause. `usage`: the input is at fault. `passing`: it may
    come out right if it is tried again.
    """

    def __init__(self, message: str, usage: bool = False, passing: bool = False):
        super().__init__(message)
        self.usage, self.passing = usage, passing


def job_of(
    item: Item, store: Path, raw: Path, run: RunSettings, scratch: Path | None = None, rows_anew: bool = False
) -> dict:
    """What a process is told of an item. scratch: see Workspace; rows_anew: no row that is finished already is read back."""
    stage = item.stage
    return {
        "name": f"{stage.name} [{item.label}]",
        "function": stage.function,
        "arguments": {name: _encode(value) for name, value in item.arguments.items()},
        "read": {name: list(names) for name, names in item.settings_read().items()},
        "store": store_name(store),
        "raw": str(raw),
        "basis": item.basis(),
        "scratch": None if scratch is None else str(scratch),
        "checkpoint_s": run.checkpoint_s,
        "events": None if scratch is None else str(events_folder(store, stage.name, scratch.name)),
        "processes": run.processes if stage.trains else 1,
        "launch_config": run.launch_config,
        "rows_anew": rows_anew,
        "silent_limit_s": run.silent_limit_s,
    }


def outcome(
    job: dict, answers: Iterable[dict], progress: Progress, on_line: LineCallback = ignore_line
) -> tuple[Ref, ...]:
    """The artefacts that a job's answers end in, its messages passed on as they come. Raises StageFailed."""
    told: dict = {}
    end: dict = {}
    for answer in answers:
        if "progress" in answer:
            progress(*answer["progress"])
        elif "log" in answer:
            on_line(answer["log"])
        elif "ended" in answer:
            end = answer
        else:
            told = answer
    name, log = job["name"], f"log: {end.get('log_path')}"
    if "done" in told:
        return tuple(Ref(**ref) for ref in told["done"])
    if "failed" in told:
        raise StageFailed(f"{name}: {told['failed']}", told["usage"], told.get("passing", False))
    if end["silent"]:
        raise StageFailed(
            f"{name}: no sign of its process for {job['silent_limit_s']:g} s: it was ended; run again, or with a larger "
            f"run.silent_limit_s; {log}"
        )
    raise StageFailed(
        f"{name}: its process {how_it_ended(end['ended'])}; {log}", passing=end.get("passing", False)
    )


def events_folder(store: Path, stage: str, key: str) -> Path:
    """Where the curves of a training item of this key are left."""
    return store / "logs" / stage / key[:EVENTS]


def _encode(value):
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _encode(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(inner) for inner in value]
    return value
