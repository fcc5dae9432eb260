"""Stages as Prefect tasks: what is stale of a flow's stages is run, each item a task run named after it.

Long ones show progress, and trainings their losses; every stage leaves a table artifact, and a run a markdown one.
Knows nothing of what any stage does.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import partial
from uuid import UUID

import httpx
from prefect import Flow, State, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.exceptions import CancelledRun
from prefect.futures import PrefectFuture
from prefect.states import Cancelled

from storage.store import Ref
from tasks.engine.item import Item
from tasks.engine.jobs import StageFailed
from tasks.engine.passing import tried
from tasks.engine.planner import Node, StagePlan, plan_stage, run_graph
from tasks.engine.run import Run, RunRequest, executor, open_run, publish_report
from tasks.engine.session import artefacts_of
from tasks.engine.stopping import Interrupted, Stop, Stopped, with_our_signal_handlers
from tasks.orchestration.account import accounted
from tasks.orchestration.artifacts import best_effort, create_cards, progress_artifact
from tasks.orchestration.bounded import first_lines
from tasks.orchestration.monitor import monitored_by
from tasks.orchestration.names import task_tags
from tasks.orchestration.stage_page import create_page
from tasks.stages.verdicts import verdict_line
from tasks.terminal import clean, seconds_text, size_text

SERVER_RETRIES, SERVER_RETRY_AFTER_S = 5, 2.0
"""A tagged task run asks the server for leave before it begins, once, and so does a flow within another; whose server is
away then begins again, for a minute in all.
"""
LINES = 50
"""Task runs before one, to which Prefect's graph draws lines: of more nobody could follow one, and each is told to the server."""
WHY = 2000
"""Most characters of reasons in a task run's parameters; the stage's table artifact has them all."""


def _item_name(parameters: dict) -> str:
    """The item's name in the Prefect UI and the terminal."""
    stage, label = parameters["stage"], parameters["label"]
    return stage if label == "all" else f"{stage} [{label}]"


@task(task_run_name=_item_name, cache_policy=NO_CACHE, persist_result=False)  # type: ignore[arg-type]
def run_item(request: dict, stage: str, label: str, why: str) -> list[dict] | State:
    """One stale item of the run that `request` (a RunRequest as JSON) asked for; `why` is for people to read.

    All of it is plain data, so that any task runner can carry it to another process. Returns the artefacts (Refs as
    JSON); ends Cancelled where the run is stopping.
    """
    name, log = _item_name({"stage": stage, "label": label}), get_run_logger()
    started = time.monotonic()
    log.info("%s: %s", name, why)
    try:
        with (
            executor(RunRequest.model_validate(request)) as run,
            run.display.item(name, why) as shown,
            progress_artifact(name) as recorded,
        ):

            def progress(step: int, steps: int, figures: dict[str, float]) -> None:
                shown(step, steps, figures)
                recorded(step, steps, figures)

            def print_line(line: str) -> None:
                run.display.print_line(name, line)
                log.info("%s: %s", name, clean(line))

            refs = run.session.execute(run.item(stage, label), progress, print_line)
    except Stopped as stopped:
        return Cancelled(message=str(stopped))
    rows, size = sum(ref.rows for ref in refs), size_text(sum(ref.size for ref in refs))
    took = seconds_text(time.monotonic() - started)
    log.info("%s: done in %s: %d artefacts, %s, %d rows", name, took, len(refs), size, rows)
    return [ref.model_dump(mode="json") for ref in refs]


def run_stages(request: RunRequest, flow: str) -> State | None:
    """Run what is stale among a flow's stages, as far as the request's `until` needs them. For use inside that flow.

    Within an open run of the request it is a part of that one; else it publishes the report, where that has settled.

    Returns the state for the flow to end in: Cancelled where the run is stopping, else None, which is Completed.
    Raises StageFailed when an item fails; and, in a flow that runs by itself, when an earlier stage is stale.
    """
    with (
        accounted(request, flow) as account,
        open_run(request) as run,
        monitored_by(run.session.stop, run.session.store),
        with_our_signal_handlers(),
    ):
        account.run = run
        try:
            _run_stages(run, flow, request.until)
            if not run.joined:
                account.report = publish_report(request, run.settled(), run.note)
        except Stopped as stopped:
            account.outcome = account.outcome or f"stopped: {stopped}"
            return Cancelled(message=str(stopped))
        except BaseException as error:
            if not isinstance(error, Exception):  # a signal: this flow has the main thread
                run.session.stop.request(_message(error))
            if isinstance(error, Interrupted):
                account.outcome = account.outcome or str(error)
                return Cancelled(message=str(error))
            raise
    return None


def _run_stages(run: Run, flow: str, until: str | None) -> None:
    session, display = run.session, run.display
    graph = session.graph(until)
    mine = [node for node in graph if node.stage.flow == flow]
    # The exchanges are a part of the card where they are cut at all.
    carded = max({"utterances", "utterances.exchanges"} & {node.stage.name for node in mine}, default="")
    if not run.joined:
        _settle_earlier(run, [node for node in graph if node.stage.flow != flow], mine)

    tasks = _Tasks(run)
    log = get_run_logger()

    def on_settled(plan: StagePlan) -> None:
        session.workers.release(plan.stage.name)
        lines = [
            verdict_line(session.store, refs, session.settings.metrics.intervals)
            for label, refs in plan.outputs.items()
            if label in plan.stale
        ]
        line = next((line for line in lines if line), None)
        display.settled(plan, line)
        log.info("%s", _settled_line(plan, line))
        seconds = display.seconds.get(plan.stage.name)
        with best_effort(f"the page of {plan.stage.name}"):
            create_page(session.store, plan, line, seconds, tasks.only_one(plan))
        if plan.stage.name == carded:
            with best_effort("the data cards"):
                create_cards(session.store, run.board.settled.get("utterances", plan), plan)

    run_graph(session.store, mine, run.board, tasks.submit, on_settled)


class _Tasks:
    """Task runs of a flow's stale items. An item gets its place among those that run at once before it becomes a task
    run, so that the time of one is the time it worked and not what it waited for the run's own items.
    """

    def __init__(self, run: Run):
        self._run, self._request = run, run.request.placed().model_dump(mode="json")
        self._submitting = threading.Lock()
        self._ids: dict[tuple[str, str], UUID] = {}
        self._made_by: dict[str, PrefectFuture] = {}
        """Digest of an artefact -> the task run that made it, which has ended."""

    def submit(self, item: Item, why: list[str]) -> Future:
        """A future of the item's artefacts."""
        answer: Future = Future()
        waiting = partial(copy_context().run, self._run_in_place, item, why, answer)
        threading.Thread(target=waiting, name=f"{item.stage.name} [{item.label}]", daemon=True).start()
        return answer

    def only_one(self, plan: StagePlan) -> UUID | None:
        """The task run of a stage's only item; None where it has others, or was reused."""
        return self._ids.get((plan.stage.name, plan.items[0].label)) if len(plan.items) == 1 else None

    def _run_in_place(self, item: Item, why: list[str], answer: Future) -> None:
        try:
            with self._run.session.room_for(item):
                refs = tried(
                    partial(self._result, item, why),
                    SERVER_RETRIES,
                    SERVER_RETRY_AFTER_S,
                    lambda error: isinstance(error, ConcurrencySlotAcquisitionError),
                    lambda seconds, _: self._run.session.stop.wait(seconds),
                )
        except CancelledRun as cancelled:
            answer.set_exception(Stopped(str(cancelled)))
        except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
            answer.set_exception(error)
        else:
            answer.set_result(refs)

    def _result(self, item: Item, why: list[str]) -> list[Ref]:
        """The artefacts of a task run of the item."""
        stage, label = item.stage.name, item.label
        named = run_item.with_options(tags=task_tags(self._run.request, stage, label))
        said, before = _bounded("; ".join(first_lines(why))), self._read_from(item)
        with self._submitting:  # Prefect counts a flow's task runs without a lock
            running = named.submit(self._request, stage, label, said, wait_for=before, return_state=False)
        self._ids[stage, label] = running.task_run_id
        refs = [Ref.model_validate(ref) for ref in running.result()]
        self._made_by.update((ref.digest, running) for ref in refs)
        return refs

    def _read_from(self, item: Item) -> list[PrefectFuture]:
        """The task runs of this flow whose artefacts the item reads, as lines of Prefect's graph. All of them have ended, so
        nothing waits.
        """
        made_by = (self._made_by.get(digest) for digest in sorted(artefacts_of(item.arguments)))
        return list(dict.fromkeys(one for one in made_by if one is not None))[:LINES]


def _settled_line(plan: StagePlan, verdict: str | None) -> str:
    """A stage that is complete, as a line of the flow's log."""
    name = plan.stage.name
    if plan.state == "not run":
        return f"{name}: not run: {plan.reason}"
    counts = f"{name}: {len(plan.stale)} items ran, {len(plan.items) - len(plan.stale)} reused"
    return f"{counts}; {clean(verdict)}" if verdict else counts


def _settle_earlier(run: Run, earlier: list[Node], mine: list[Node]) -> None:
    """Put the stages of other flows on the board as they are; it is an error if one that this flow needs is stale."""
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


def side_by_side(run: Run, request: RunRequest, *flows: Flow) -> State | None:
    """Run flows of one open run at once: each starts a stage as soon as what it needs has settled.

    The machine is kept busy where the stages of one flow would leave a core idle. Returns Cancelled where the run is
    stopping, once all have ended; raises the first failure.
    """
    stop = run.session.stop
    with (
        monitored_by(run.session.stop, run.session.store),
        with_our_signal_handlers(),
        ThreadPoolExecutor(len(flows)) as pool,
    ):
        # Each thread gets the parent flow's context, so that these become its subflows.
        running = [pool.submit(copy_context().run, _begun, flow, request, stop) for flow in flows]
        try:
            wait(running)
        except BaseException as error:  # a signal: this is the main thread
            stop.request(_message(error))
            wait(running)
            if not isinstance(error, Interrupted):
                raise  # Prefect's own, which it gives this flow's state by
        if stop.why is not None:
            return Cancelled(message=stop.why)
        for future in running:
            future.result()
    return None


def _begun(flow: Flow, request: RunRequest, stop: Stop):
    """Run a flow, begun once more where its server was away when it was to begin; what it has done by then is fresh."""
    return tried(
        lambda: flow(request),
        SERVER_RETRIES,
        SERVER_RETRY_AFTER_S,
        lambda error: isinstance(error, httpx.ConnectError),
        lambda seconds, _: stop.wait(seconds),
    )


def as_part(flow: Flow, request: RunRequest, stop: Stop):
    """Run a flow within another one: its result, or the state Cancelled where it was cancelled. stop: of the other one."""
    try:
        return _begun(flow, request, stop)
    except (CancelledRun, Stopped) as cancelled:
        return Cancelled(message=str(cancelled))


def _message(error: BaseException) -> str:
    return str(error) or f"stopped by {type(error).__name__}"


def _bounded(why: str) -> str:
    return why if len(why) <= WHY else why[: WHY - 1] + "…"
