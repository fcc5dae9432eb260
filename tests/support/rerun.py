"""The real pipeline run at the stage layer, without an orchestrator; says which items ran.

For tests and benchmarks, in process (`run`) or as a program that can be killed or given another source tree:

    python -m tests.support.rerun PROFILE STORE RAW [--until STAGE] [SETTING=VALUE …]

prints the items that ran, as one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from storage.sample.layout import write_sample
from tasks.engine.item import Item
from tasks.engine.jobs import Progress
from tasks.engine.planner import Board, StagePlan, run_graph
from tasks.engine.pool import Pool
from tasks.engine.session import Session
from tasks.settings import load_settings

SMALL = (
    "candidates.budget=200",
    *(f"{name}.max_tokens=300" for name in ("extractor.training", "compressor.pretrain", "compressor.finetune")),
    *(f"{name}.training.max_tokens=300" for name in ("dialogue", "epo")),
    "extractor.training.heldout_rows=4", "compressor.pretrain.heldout_rows=4",
    "compressor.finetune.heldout_rows=1", "dialogue.training.heldout_rows=2", "epo.training.heldout_rows=2",
    "compressor.window_curriculum=[]", "compressor.free_running_rows=1", "recognition.clips=3", "replies.exchanges=2", "replies.max_new_tokens=6",
    "ladder.exchanges=2", "epo_test.exchanges=2", "epo_test.samples=2",
    "pairs.threshold=1.0", "pairs.fallback=none",
)  # fmt: skip
"""Budgets that bring a run in seconds; every exchange of train and dev has its candidates."""


def write_meld(root: Path) -> Path:
    """The sample's MELD alone, with its clips, so that every stage has something to do."""
    write_sample(root, dialogues=2, turns=4)
    for other in ("MultiDialog", "IEMOCAP_full_release"):
        shutil.rmtree(root / other)
    return root


def session(
    profile: str,
    store: Path,
    raw: Path,
    changes: Sequence[str] = (),
    workers: Pool | None = None,
    **options,
) -> Session:
    return Session(load_settings(profile, changes), profile, store, raw, workers=workers, **options)


def run(opened: Session, until: str | None = None, progress: Progress = lambda *_: None) -> list[str]:
    """Run what is stale; returns "stage label" of every item that this run computed itself, sorted."""
    ran: list[str] = []
    compute = opened.workers.run

    def counted(item: Item, *rest, **more):
        ran.append(f"{item.stage.name} {item.label}")
        return compute(item, *rest, **more)

    def execute(item: Item):
        with opened.room_for(item):
            return opened.execute(item, progress)

    def settled(plan: StagePlan) -> None:
        opened.workers.release(plan.stage.name)

    opened.workers.run = counted
    try:
        with ThreadPoolExecutor(16) as pool, opened.store.lock("gc", shared=True):

            def submit(item: Item, why: list[str]) -> Future:
                return pool.submit(execute, item)

            run_graph(opened.store, opened.graph(until), Board(), submit, settled)
    finally:
        del opened.workers.run
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
    parser = argparse.ArgumentParser()
    for name in ("profile", "store", "raw"):
        parser.add_argument(name)
    parser.add_argument("changes", nargs="*")
    parser.add_argument("--until")
    asked = parser.parse_intermixed_args()
    with session(asked.profile, Path(asked.store), Path(asked.raw), asked.changes) as opened:
        print(json.dumps(run(opened, asked.until)))
