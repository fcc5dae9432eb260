"""What a run leaves in Prefect's UI: progress, a table of each stage, data cards, a summary.

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
    create_table_artifact,
    update_progress_artifact,
)

from storage.store import Ref, Store
from tasks.engine.planner import StagePlan
from tasks.stages.utterances.cards import card_markdown, exchange_counts

PROGRESS_EVERY_S = 3.0


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
        if artifact is None:
            artifact = create_progress_artifact(progress=share, description=description)
        else:
            update_progress_artifact(artifact_id=artifact, progress=share, description=description)
        if text:
            log.info("%s: %d of %d %s", name, step, steps, text)
        last = time.monotonic()

    yield record


def create_table(plan: StagePlan, verdict: str | None) -> None:
    """The stage's table artifact: each item, whether it ran, and why."""
    rows = [
        {
            "item": label,
            "ran": "yes" if label in plan.stale else "reused",
            "why": "; ".join(plan.stale.get(label, [])),
            "rows": sum(ref.rows for ref in refs),
            "rejects": rejects(refs),
            "artefacts": ", ".join(ref.name for ref in refs[:8]),
        }
        for label, refs in sorted(plan.outputs.items())
    ]
    create_table_artifact(
        key=f"stage-{plan.stage.name.replace('.', '-')}",
        table=rows or [{"item": "-", "ran": "no", "why": plan.reason}],
        description=f"{plan.stage.name}: {len(plan.stale)} of {len(plan.items)} items ran"
        + (f"; {verdict}" if verdict else ""),
    )


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


def rejects(refs: tuple[Ref, ...]) -> int:
    """Rejected rows named by the rejects tables among an item's artefacts."""
    return sum(ref.rejects for ref in refs if ref.name.startswith("rejects/"))


def create_summary(before: list[StagePlan], report: str | None) -> None:
    """The run's markdown artifact: what was stale and why, and where the report is."""
    lines = ["| stage | before | stale items | why |", "|---|---|---|---|"]
    for plan in before:
        facts = plan.as_dict()
        why = "; ".join(facts["reasons"][:6]).replace("|", "\\|")
        lines.append(f"| {plan.stage.name} | {plan.state} | {len(plan.stale)} of {len(plan.items)} | {why} |")
    if report:
        lines += ["", f"Report: `{report}`"]
    create_markdown_artifact(
        key="run-summary", markdown="\n".join(lines), description="what this run did, and why"
    )
