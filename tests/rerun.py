"""The real pipeline run at the stage layer, without an orchestrator; says which items ran.

For tests and benchmarks, in process (`run`) or as a program that can be killed or given another source tree:

    python -m tests.rerun PROFILE STORE RAW [SETTING=VALUE …]     prints the items that ran, as one JSON line
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tasks.session import Session
from tasks.settings import load_settings
from tasks.stages.planner import Board, StagePlan, run_graph
from tasks.stages.pool import WorkerPool
from tasks.stages.stage import Item


def session(
    profile: str,
    store: Path,
    raw: Path,
    changes: Sequence[str] = (),
    workers: WorkerPool | None = None,
    **options,
) -> Session:
    return Session(load_settings(profile, changes), profile, store, raw, workers=workers, **options)


def run(opened: Session, until: str | None = None) -> list[str]:
    """Run what is stale; returns "stage label" of every item that ran, sorted."""
    ran: list[str] = []
    opened.forget_rows()

    def execute(item: Item):
        with opened.slots.take(item.stage.name):
            return opened.execute(item, lambda *_: None)

    def settled(plan: StagePlan) -> None:
        opened.workers.release(plan.stage.name)

    with ThreadPoolExecutor(16) as pool, opened.store.lock("gc", shared=True):

        def submit(item: Item, why: list[str]) -> Future:
            ran.append(f"{item.stage.name} {item.label}")
            return pool.submit(execute, item)

        run_graph(opened.store, opened.graph(until), Board(), submit, settled)
    return sorted(ran)


def digests(opened: Session, until: str | None = None) -> dict[str, str]:
    """ "stage label artefact" -> digest of everything a finished run holds."""
    return {
        f"{plan.stage.name} {label} {ref.name}": ref.digest
        for plan in opened.plan(until)
        for label, refs in plan.outputs.items()
        for ref in refs
    }


if __name__ == "__main__":
    profile, store, raw, *changes = sys.argv[1:]
    with session(profile, Path(store), Path(raw), changes) as opened:
        print(json.dumps(run(opened)))
