"""Prefect tasks for stages: the one module here that imports Prefect.

Every stale item becomes a task run named after its stage and item; long ones show progress, and trainings their
losses; every stage leaves a table artifact, and a run a markdown one. Knows nothing of what any stage does.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from uuid import UUID

from prefect import Flow, State, get_client, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext, refresh_global_settings_context
from prefect.exceptions import CancelledRun
from prefect.futures import PrefectFuture
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Crashed

from storage.store import Ref, Store
from tasks.engine import run_marks
from tasks.engine.item import Item
from tasks.engine.own_server import OwnServer
from tasks.engine.planner import Node, StagePlan, plan_stage, run_graph
from tasks.engine.run import Run, RunRequest, executor, open_run
from tasks.engine.stopping import (
    TELL_S,
    Interrupted,
    Stop,
    Stopped,
    orchestrator_lost,
    stop_all,
    told_at_last,
    with_our_signal_handlers,
)
from tasks.engine.worker import StageFailed
from tasks.stages.utterances.cards import card_markdown, exchange_counts
from tasks.stages.verdicts import verdict_line

PROGRESS_EVERY_S = 3.0
WHY = 2000
"""Most characters of reasons in a task run's parameters; the stage's table artifact has them all."""
WATCH_EVERY_S = 2.0
LEASE_EVERY_S, LEASE_S = 10.0, 90.0
"""How often a deployment's concurrency lease is renewed, and for how long: Prefect's own 300 s would hold the place
that long after a machine is gone.
"""
UNREACHABLE_S = 60.0
"""Seconds without an answer of its server after which a run ends."""
GONE = "Its process has gone without a word: killed, or the machine was."
SERVER = "prefect.server.api.server:create_app"


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
            run.session.slots.take(stage),
            run.display.item(name, why) as shown,
            _progress_artifact(name) as recorded,
        ):

            def progress(step: int, steps: int, figures: dict[str, float]) -> None:
                shown(step, steps, figures)
                recorded(step, steps, figures)

            item = run.item(stage, label)
            refs = run.session.execute(item, progress, partial(run.display.print_line, name))
    except Stopped as stopped:
        return Cancelled(message=str(stopped))
    return [ref.model_dump(mode="json") for ref in refs]


@contextmanager
def _progress_artifact(name: str):
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
        told = " ".join(f"{key} {value:.3f}" for key, value in figures.items() if key != "step")
        if artifact is None and step == steps and not told:
            return
        description = f"{name}: {told}" if told else name
        if artifact is None:
            artifact = create_progress_artifact(progress=share, description=description)
        else:
            update_progress_artifact(artifact_id=artifact, progress=share, description=description)
        if told:
            log.info("%s: %d of %d %s", name, step, steps, told)
        last = time.monotonic()

    yield record


def run_stages(request: RunRequest, flow: str) -> State | None:
    """Run what is stale among a flow's stages, as far as the request's `until` needs them. For use inside that flow.

    Within an open run of the request it is a part of that one.

    Returns the state for the flow to end in: Cancelled where the run is stopping, else None, which is Completed.
    Raises StageFailed when an item fails; and, in a flow that runs by itself, when an earlier stage is stale.
    """
    with (
        open_run(request) as run,
        _monitored(run.session.stop, run.session.store),
        with_our_signal_handlers(),
    ):
        try:
            _run_stages(run, flow, request.until)
        except Stopped as stopped:
            return Cancelled(message=str(stopped))
        except BaseException as error:
            if not isinstance(error, Exception):  # a signal: this flow has the main thread
                run.session.stop.ask(_message(error))
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
        told = [
            verdict_line(session.store, refs, session.settings.metrics.intervals)
            for label, refs in plan.outputs.items()
            if label in plan.stale
        ]
        line = next((line for line in told if line), None)
        display.settled(plan, line)
        _create_table(plan, line)
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
        _monitored(run.session.stop, run.session.store),
        with_our_signal_handlers(),
        ThreadPoolExecutor(len(flows)) as pool,
    ):
        # Each thread gets the parent flow's context, so that these become its subflows.
        running = [pool.submit(copy_context().run, flow, request) for flow in flows]
        try:
            wait(running)
        except BaseException as error:  # a signal: this is the main thread
            stop.ask(_message(error))
            wait(running)
            if not isinstance(error, Interrupted):
                raise  # Prefect's own, which it gives this flow's state by
        if stop.why is not None:
            return Cancelled(message=stop.why)
        for future in running:
            future.result()
    return None


@contextmanager
def monitored(request: RunRequest) -> Iterator[None]:
    """For a flow that only runs another one: its run is monitored from its first moment on."""
    stop = Stop()
    stop.on_stop(stop_all)
    with _monitored(stop, Store(Path(request.store))):
        yield


def as_part(flow: Flow, request: RunRequest):
    """Run a flow within another one: its result, or the state Cancelled where it was cancelled."""
    try:
        return flow(request)
    except CancelledRun as cancelled:
        return Cancelled(message=str(cancelled))


def run_from_shell(flow: Flow, *arguments):
    """Run a flow from a command: where no server is configured, beside one of its own. Raises Stopped if cancelled."""
    _serve_if_alone()
    try:
        return flow(*arguments)
    except CancelledRun as cancelled:
        raise Stopped(str(cancelled)) from None


def _serve_if_alone() -> None:
    """Where no server is configured, start one that lives as long as this process."""
    settings = get_current_settings()
    if settings.api.url is not None:
        return
    server = OwnServer(SERVER, Path(settings.home) / "empamba")
    atexit.register(server.stop)  # after Prefect has sent what it has not sent yet
    environment = {
        **os.environ,
        **settings.to_environment_variables(exclude_unset=True),
        "PREFECT_LOGGING_LEVEL": "WARNING",  # into its log file, whatever the run itself prints
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    # A database that the user has named is used; without one each run at once gets another.
    environment.setdefault("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{server.database}")
    seconds = settings.server.ephemeral.startup_timeout_seconds
    address = server.start(environment, seconds, orchestrator_lost)
    os.environ["PREFECT_API_URL"] = f"{address}/api"
    os.environ[OWN] = str(server.database)
    refresh_global_settings_context()


OWN = "EMPAMBA_OWN_SERVER"
"""In the environment: the database of this process's own server. Its address is another every time."""


def _message(error: BaseException) -> str:
    return str(error) or f"stopped by {type(error).__name__}"


@contextmanager
def _monitored(stop: Stop, store: Store) -> Iterator[None]:
    """While the current flow runs it is marked as alive, and stops when the server cancels it.

    Runs of this store that were killed are marked Crashed first.
    """
    context = FlowRunContext.get()
    flow_run = None if context is None else context.flow_run
    with ExitStack() as stack:
        if flow_run is not None:
            server = os.environ.get(OWN) or str(get_current_settings().api.url)
            _mark_crashed(run_marks.dead(store, server))
            stack.enter_context(run_marks.marked(store, str(flow_run.id), server))
            stack.enter_context(_watched(stop, flow_run.id, _lease(flow_run)))
        yield


def _lease(flow_run: FlowRun) -> UUID | None:
    """The flow run's lease on its deployment's concurrency limit."""
    state = flow_run.state
    return None if state is None else state.state_details.deployment_concurrency_lease_id


def _mark_crashed(flow_runs: list[str]) -> None:
    """Mark flow runs whose process is gone, and their task runs, as Crashed."""
    if not flow_runs:
        return
    try:
        with get_client(sync_client=True) as client:
            _settle(client, flow_runs, Crashed(message=GONE))
    except Exception as error:  # a run must not fail because another one died
        get_run_logger().warning("flow runs that died are not marked Crashed: %s", error)


def _settle(client, flow_runs: list[str], state: State) -> None:
    """Give flow runs, and what runs in them, this state where they are in none that is final."""
    theirs = FlowRunFilter(id={"any_": flow_runs})
    for flow_run in client.read_flow_runs(flow_run_filter=theirs):
        if flow_run.state is None or not flow_run.state.is_final():
            client.set_flow_run_state(flow_run.id, state, force=True)
    for task_run in client.read_task_runs(flow_run_filter=theirs):
        if task_run.state is None or not task_run.state.is_final():
            client.set_task_run_state(task_run.id, state, force=True)


class _Watch:
    """Asks the server from time to time whether flow runs of an open run are to be cancelled; stops the run then.

    It also renews the concurrency leases of deployments, for a shorter time than Prefect does.
    """

    def __init__(self, stop: Stop):
        self.flow_runs: dict[UUID, UUID | None] = {}
        """Flow run -> its lease, if it holds one."""
        self._stop, self._ended = stop, threading.Event()
        # The thread needs the settings of the flow's context, where a test or a caller has changed them.
        context, self._context = copy_context(), copy_context()
        threading.Thread(target=context.run, args=(self._run,), name="watch", daemon=True).start()
        self._telling = told_at_last(self.cut_off)
        self._telling.__enter__()

    def end(self) -> None:
        self._ended.set()
        self._telling.__exit__(None, None, None)

    def cut_off(self, why: str) -> None:
        """The process is about to end with its flow runs in mid-air: nobody else would tell the server."""
        self._context.run(self._tell_cut_off, why)

    def _tell_cut_off(self, why: str) -> None:
        with suppress(Exception), get_client(sync_client=True, httpx_settings={"timeout": TELL_S}) as client:
            state: State = Cancelled(message=f"{why}; it had not ended in time and was cut off")
            _settle(client, [str(flow_run) for flow_run in tuple(self.flow_runs)], state)

    def _run(self) -> None:
        answered, renewed = time.monotonic(), -LEASE_EVERY_S
        with get_client(sync_client=True, httpx_settings={"timeout": 10.0}) as client:
            while not self._ended.wait(WATCH_EVERY_S):
                if time.monotonic() - renewed > LEASE_EVERY_S:
                    self._renew(client)
                    renewed = time.monotonic()
                try:
                    self._look(client)
                    answered = time.monotonic()
                except Exception:  # a server that does not answer is waited for
                    if time.monotonic() - answered > UNREACHABLE_S and not self._ended.is_set():
                        orchestrator_lost(f"the Prefect server has not answered for {UNREACHABLE_S:.0f} s")
                        return

    def _renew(self, client) -> None:
        for lease in filter(None, tuple(self.flow_runs.values())):
            with suppress(Exception):  # Prefect renews it too, and ends a run that has lost its place
                client.renew_concurrency_lease(lease_id=lease, lease_duration=LEASE_S)

    def _look(self, client) -> None:
        asked = [str(flow_run) for flow_run in tuple(self.flow_runs)]
        for flow_run in client.read_flow_runs(flow_run_filter=FlowRunFilter(id={"any_": asked})):
            state = flow_run.state
            if flow_run.id in self.flow_runs and (state.is_cancelling() or state.is_cancelled()):
                self._stop.ask("cancelled in Prefect")


_watches: dict[Stop, _Watch] = {}
_watching = threading.Lock()


@contextmanager
def _watched(stop: Stop, flow_run: UUID, lease: UUID | None) -> Iterator[None]:
    """Within the block the flow run is among those asked about; all flows of an open run share one watch."""
    with _watching:
        watch = _watches.setdefault(stop, _watches.get(stop) or _Watch(stop))
        watch.flow_runs[flow_run] = lease
    try:
        yield
    finally:
        with _watching:
            del watch.flow_runs[flow_run]
            if not watch.flow_runs:
                watch.end()
                del _watches[stop]


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


def _create_table(plan: StagePlan, verdict: str | None) -> None:
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
        told = plan.as_dict()
        why = "; ".join(told["reasons"][:6]).replace("|", "\\|")
        lines.append(f"| {plan.stage.name} | {plan.state} | {len(plan.stale)} of {len(plan.items)} | {why} |")
    if report:
        lines += ["", f"Report: `{report}`"]
    create_markdown_artifact(
        key="run-summary", markdown="\n".join(lines), description="what this run did, and why"
    )
