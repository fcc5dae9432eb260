"""What a run leaves in Prefect's UI while it works: progress and data cards. What stages and runs came to: stage_page,
account.

Knows nothing of how stages run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from storage.store import Store
from tasks.engine.planner import StagePlan
from tasks.stages.utterances.cards import card_markdown, exchange_counts

PROGRESS_EVERY_S = 3.0


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """What cannot be shown, since its server is away or an artefact damaged, takes nothing from the run it is of."""
    try:
        yield
    except Exception as error:
        get_run_logger().warning("%s is not shown: %s", what, error)


@contextmanager
def progress_artifact(name: str) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A progress artifact, made with the first step; what is done with its first step and has no figures leaves none.

    A training's figures are its description, and lines of the task run's log. `empamba run` keeps no log unless
    PREFECT_LOGGING_LEVEL says so; the artifact it keeps.
    """
    artifact, last, log = None, 0.0, get_run_logger()

    def record(step: int, steps: int, figures: dict[str, float]) -> None:
        nonlocal artifact, last
        if artifact is not None and step != steps and time.monotonic() - last <= PROGRESS_EVERY_S:
            return
        share = 100.0 * step / max(1, steps)
        text = " ".join(f"{key} {value:.3f}" for key, value in figures.items() if key != "step")
        if artifact is None and step == steps and not text:
            return
        description = f"{name}: {text}" if text else name
        with best_effort("progress"):
            if artifact is None:
                artifact = create_progress_artifact(progress=share, description=description)
            else:
                update_progress_artifact(artifact_id=artifact, progress=share, description=description)
        if text:
            log.info("%s: %d of %d %s", name, step, steps, text)
        last = time.monotonic()

    yield record


def create_cards(store: Store, utterances: StagePlan, cut: StagePlan) -> None:
    """A markdown artifact for each dataset: its card, with the exchanges that were cut from it, if any were."""
    counts = exchange_counts((ref for refs in cut.outputs.values() for ref in refs), store)
    for ref in (r for refs in utterances.outputs.values() for r in refs if r.name.startswith("card/")):
        dataset = ref.name.split("/")[1]
        create_markdown_artifact(
            key=f"data-card-{dataset.replace('_', '-')}",
            markdown=card_markdown(
                f"Data card: {dataset}", json.loads(store.read(ref)), counts.get(dataset, {})
            ),
            description=f"{dataset}: what was read, what was not and why",
        )
