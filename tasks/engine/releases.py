"""What another version of the code makes stale of a store: stages whose code is not what they last ran with.

A plan says why a stage is stale, and of what is behind it that it is unknown; this says of all stages at once which ones a
release, or an edit, has run again. Knows nothing of Prefect.
"""

from __future__ import annotations

from pathlib import Path

from storage.store import Store, UnreadableError
from tasks.engine.item import code_of
from tasks.engine.planner import StagePlan


def changed_code(store: Store, plans: list[StagePlan]) -> dict[str, list[str]]:
    """Stage -> the functions and constants it reaches that changed, came or went, of stages that have run before."""
    latest: dict[str, Path] = {}
    for path in sorted(store.last_paths(), key=_written):
        latest[path.parent.name] = path
    found = {}
    for plan in plans:
        noted = latest.get(plan.stage.name)
        old = None if noted is None else _noted_code(store, noted)
        if old is not None:
            now = code_of(plan.stage.function, plan.stage.code)
            names = sorted(name for name in old.keys() | now.keys() if old.get(name) != now.get(name))
            if names:
                found[plan.stage.name] = names
    return found


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _noted_code(store: Store, path: Path) -> dict[str, str] | None:
    """What an item's code was when it last ran; None where that is not known."""
    try:
        noted = store.read_last(path)
    except UnreadableError:
        return None
    return None if noted is None else noted["parts"].get("code")
