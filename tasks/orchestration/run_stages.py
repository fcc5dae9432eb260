"""Stages as Prefect tasks: what is stale of a flow's stages is run, each item a task run named after it.

Long ones show progress, and trainings their losses; every stage leaves a table artifact, and a run a markdown one.
Knows nothing of what any stage does.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import partial

from prefect import Flow, State, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import CancelledRun
from prefect.futures import PrefectFuture
from prefect.states import Cancelled

from storage.store import Ref
from tasks.engine.item import Item
from tasks.engine.planner import Node, StagePlan, plan_stage, run_graph
from tasks.engine.run import Run, RunRequest, executor, open_run
from tasks.engine.stopping import Interrupted, Stopped, with_our_signal_handlers
from tasks.engine.worker import StageFailed
from tasks.orchestration.artifacts import create_cards, create_table, progress_artifact
from tasks.orchestration.monitor import monitored_by
from tasks.stages.verdicts import verdict_line

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
    name = _item_name({"stage": stage, "label": label})
    try:
        with (
            executor(RunRequest.model_validate(request)) as run,
            run.session.room_for(item := run.item(stage, label)),
            run.display.item(name, why) as shown,
            progress_artifact(name) as recorded,
        ):

            def progress(step: int, steps: int, figures: dict[str, float]) -> None:
                shown(step, steps, figures)
                recorded(step, steps, figures)

            refs = run.session.execute(item, progress, partial(run.display.print_line, name))
    except Stopped as stopped:
        return Cancelled(message=str(stopped))
    return [ref.model_dump(mode="json") for ref in refs]


def run_stages(request: RunRequest, flow: str) -> State | None:
    """Run what is stale among a flow's stages, as far as the request's `until` needs them. For use inside that flow.

    Within an open run of the request it is a part of that one.

    Returns the state for the flow to end in: Cancelled where the run is stopping, else None, which is Completed.
    Raises StageFailed when an item fails; and, in a flow that runs by itself, when an earlier stage is stale.
    """
    with (
        open_run(request) as run,
        monitored_by(run.session.stop, run.session.store),
        with_our_signal_handlers(),
    ):
        try:
            _run_stages(run, flow, request.until)
        except Stopped as stopped:
            return Cancelled(message=str(stopped))
        except BaseException as error:
            if not isinstance(error, Exception):  # a signal: this flow has the main thread
                run.session.stop.request(_message(error))
            if isinstance(error, Interrupted):
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

    request = run.request.placed().model_dump(mode="json")

    def submit(item: Item, why: list[str]) -> Future:
        answer: Future = Future()
        running = run_item.submit(request, item.stage.name, item.label, _bounded("; ".join(why)))
        running.add_done_callback(partial(_pass_result, answer))
        return answer

    def on_settled(plan: StagePlan) -> None:
        session.workers.release(plan.stage.name)
        lines = [
            verdict_line(session.store, refs, session.settings.metrics.intervals)
            for label, refs in plan.outputs.items()
            if label in plan.stale
        ]
        line = next((line for line in lines if line), None)
        display.settled(plan, line)
        create_table(plan, line)
        if plan.stage.name == carded:
            create_cards(session.store, run.board.settled.get("utterances", plan), plan)

    run_graph(session.store, mine, run.board, submit, on_settled)


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
        running = [pool.submit(copy_context().run, flow, request) for flow in flows]
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


def as_part(flow: Flow, request: RunRequest):
    """Run a flow within another one: its result, or the state Cancelled where it was cancelled."""
    try:
        return flow(request)
    except CancelledRun as cancelled:
        return Cancelled(message=str(cancelled))


def _message(error: BaseException) -> str:
    return str(error) or f"stopped by {type(error).__name__}"


def _pass_result(answer: Future, running: PrefectFuture) -> None:
    """Set the future to what a task run returned, or to the error it ended with."""
    try:
        answer.set_result([Ref.model_validate(ref) for ref in running.result()])
    except CancelledRun as cancelled:
        answer.set_exception(Stopped(str(cancelled)))
    except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
        answer.set_exception(error)


def _bounded(why: str) -> str:
    return why if len(why) <= WHY else why[: WHY - 1] + "…"
