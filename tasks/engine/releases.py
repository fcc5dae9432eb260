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
    """Stage -> the functions and constants it reaches that changed, came or went, of stages that have run before.

    Since its items' notes that are nearest to the code as it is: when they were written is not asked, by whichever clock.
    """
    noted: dict[str, list[Path]] = {}
    for path in store.last_paths():
        noted.setdefault(path.parent.name, []).append(path)
    found = {}
    for plan in plans:
        names = _fewest_changes(store, plan, noted.get(plan.stage.name, []))
        if names:
            found[plan.stage.name] = names
    return found


def _fewest_changes(store: Store, plan: StagePlan, noted: list[Path]) -> list[str]:
    """What differs between the code as it is and as it was for one of the stage's items; nothing where none is known."""
    fewest: list[str] | None = None
    now = code_of(plan.stage.function, plan.stage.code) if noted else {}
    for path in noted:
        old = _noted_code(store, path)
        if old is not None:
            names = sorted(name for name in old.keys() | now.keys() if old.get(name) != now.get(name))
            if not names:
                return []
            fewest = names if fewest is None or len(names) < len(fewest) else fewest
    return fewest or []


def _noted_code(store: Store, path: Path) -> dict[str, str] | None:
    """What an item's code was when it last ran; None where that is not known."""
    try:
        noted = store.read_last(path)
    except UnreadableError:
        return None
    return None if noted is None else noted["parts"].get("code")
