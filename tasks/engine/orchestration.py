"""Prefect tasks of stages: the one module here that knows Prefect.

Every stale item becomes a task run named after its stage and item; long ones show progress, and trainings their
losses; every stage leaves a table artifact, and a run a markdown one. Knows nothing of what any stage does.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial

from prefect import Flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE

from storage.store import Ref, Store
from tasks.display import Display
from tasks.engine.item import Item
from tasks.engine.planner import Node, StagePlan, plan_stage, run_graph
from tasks.engine.run import Run, RunRequest
from tasks.engine.session import Session
from tasks.engine.worker import StageFailed
from tasks.stages.utterances.cards import card_markdown, exchange_counts
from tasks.stages.verdicts import verdict_line

PROGRESS_EVERY_S = 3.0


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_item(name: str, why: str, item: Item, session: Session, display: Display, answer: Future) -> None:
    """One stale item. `why` is shown among the task run's parameters; the artefacts go to `answer`."""
    with (
        session.slots.take(item.stage.name),
        display.item(name, why) as shown,
        _progress_artifact(name) as recorded,
    ):

        def progress(step: int, steps: int, figures: dict[str, float]) -> None:
            shown(step, steps, figures)
            recorded(step, steps, figures)

        answer.set_result(session.execute(item, progress, partial(display.tell, name)))


@contextmanager
def _progress_artifact(name: str):
    """A progress artifact, made with the first step so that short items leave none.

    A training's figures are its description, and lines of the task run's log. `empamba run` keeps no log unless
    PREFECT_LOGGING_LEVEL says so; the artifact it keeps.
    """
    artifact, last, log = None, 0.0, get_run_logger()

    def record(step: int, steps: int, figures: dict[str, float]) -> None:
        nonlocal artifact, last
        if artifact is not None and step != steps and time.monotonic() - last <= PROGRESS_EVERY_S:
            return
        share = 100.0 * step / max(1, steps)
        told = " ".join(f"{key} {value:.3f}" for key, value in figures.items() if key != "step")
        description = f"{name}: {told}" if told else name
        if artifact is None:
            artifact = create_progress_artifact(progress=share, description=description)
        else:
            update_progress_artifact(artifact_id=artifact, progress=share, description=description)
        if told:
            log.info("%s: %d of %d %s", name, step, steps, told)
        last = time.monotonic()

    yield record


def run_stages(run: Run, flow: str, until: str | None) -> None:
    """Run what is stale among a flow's stages, as far as `until` needs them. For use inside that flow.

    Raises StageFailed when an item fails; and, in a flow that runs by itself, when an earlier stage is stale.
    """
    session, display = run.session, run.display
    graph = session.graph(until)
    mine = [node for node in graph if node.stage.flow == flow]
    # The exchanges are a part of the card where they are cut at all.
    carded = max({"utterances", "utterances.exchanges"} & {node.stage.name for node in mine}, default="")
    if not run.joined:
        _settle_earlier(run, [node for node in graph if node.stage.flow != flow], mine)

    def submit(item: Item, why: list[str]) -> Future:
        answer: Future = Future()
        name = f"{item.stage.name} [{item.label}]" if item.label != "all" else item.stage.name
        running = run_item.submit(name, "; ".join(why), item, session, display, answer)
        running.add_done_callback(lambda _: _tell_failure(running, answer))
        return answer

    def on_settled(plan: StagePlan) -> None:
        session.workers.release(plan.stage.name)
        told = [
            verdict_line(session.store, refs, session.settings.metrics.intervals)
            for label, refs in plan.outputs.items()
            if label in plan.stale
        ]
        line = next((line for line in told if line), None)
        display.settled(plan, line)
        _leave_table(plan, line)
        if plan.stage.name == carded:
            leave_cards(session.store, run.board.settled.get("utterances", plan), plan)

    run_graph(session.store, mine, run.board, submit, on_settled)


def _settle_earlier(run: Run, earlier: list[Node], mine: list[Node]) -> None:
    """Put the stages of other flows on the board as they are; one that this flow needs and is stale is an error."""
    for node in earlier:
        if all(need in run.board.settled for need in node.needs):
            plan = plan_stage(run.session.store, node, run.board.settled)
            if plan.state != "stale":
                run.board.settle(plan)
    names = {node.stage.name for node in mine}
    for node in mine:
        for need in node.needs:
            if need not in run.board.settled and need not in names:
                raise StageFailed(f"{node.stage.name} needs {need}, which is stale: run its flow first")


def side_by_side(request: RunRequest, *flows: Flow) -> None:
    """Run flows of one open run at once: each starts a stage as soon as what it needs has settled.

    The machine is kept busy where the stages of one flow would leave a core idle. The first failure is raised.
    """
    with ThreadPoolExecutor(len(flows)) as pool:
        # Each thread gets the parent flow's context, so that these become its subflows.
        for future in [pool.submit(copy_context().run, flow, request) for flow in flows]:
            future.result()


def _tell_failure(running, answer: Future) -> None:
    """A task run that ended without an answer failed; its error is the answer."""
    if not answer.done():
        try:
            running.result()
            raise StageFailed("a task run ended without its artefacts")
        except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
            answer.set_exception(error)


def _leave_table(plan: StagePlan, verdict: str | None) -> None:
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


def leave_cards(store: Store, utterances: StagePlan, cut: StagePlan) -> None:
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


def leave_summary(before: list[StagePlan], report: str | None) -> None:
    """The run's markdown artifact: what was stale and why, and where the report is."""
    lines = ["| stage | before | stale items | why |", "|---|---|---|---|"]
    for plan in before:
        told = plan.as_dict()
        why = "; ".join(told["reasons"][:6]).replace("|", "\\|")
        lines.append(f"| {plan.stage.name} | {plan.state} | {len(plan.stale)} of {len(plan.items)} | {why} |")
    if report:
        lines += ["", f"Report: `{report}`"]
    create_markdown_artifact(
        key="run-summary", markdown="\n".join(lines), description="what this run did, and why"
    )
