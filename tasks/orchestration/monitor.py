"""Watching over flow runs: cancelled ones stop their run, dead ones are marked Crashed, leases of deployments are renewed.

Knows nothing of stages.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from uuid import UUID

from prefect import State, get_client, get_run_logger
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Crashed

from storage.store import Store
from tasks.engine import run_marks
from tasks.engine.run import RunRequest
from tasks.engine.stopping import (
    NOTIFY_S,
    Stop,
    end_in_time,
    notified_at_exit,
    orchestrator_lost,
    stop_all,
)
from tasks.engine.unread import goes_on_unread
from tasks.orchestration.notify import send
from tasks.orchestration.server import server_name

WATCH_EVERY_S = 2.0
LEASE_EVERY_S, LEASE_S = 10.0, 90.0
"""How often a deployment's concurrency lease is renewed, and for how long: Prefect's own 300 s would hold the place
that long after a machine is gone.
"""
UNREACHABLE_S = 60.0
"""Seconds without an answer of its server after which a run ends."""
CANCELLED = "cancelled in Prefect"
OF_A_WORKER = "PREFECT__FLOW_RUN_ID"
"""In the environment of a process that a worker has started for one flow run."""


@contextmanager
def monitored(request: RunRequest) -> Iterator[Stop]:
    """For a flow that only runs another one: its run is monitored from its first moment on. Yields what stops it."""
    stop = Stop()
    stop.on_stop(stop_all)
    with monitored_by(stop, Store(request.folder)):
        yield stop


@contextmanager
def monitored_by(stop: Stop, store: Store) -> Iterator[None]:
    """While the current flow runs it is marked as alive, and stops when the server cancels it.

    Runs of this store that were killed are marked Crashed first.
    """
    context = FlowRunContext.get()
    flow_run = None if context is None else context.flow_run
    if OF_A_WORKER in os.environ:
        goes_on_unread()  # the worker may be killed, and it is what reads
    with ExitStack() as stack:
        if flow_run is not None:
            server = server_name()
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
            for name in _settle(client, flow_runs, Crashed(message=run_marks.GONE)):
                send(f"{name}: Crashed", run_marks.GONE)  # the hooks that would tell it went with the process
    except Exception as error:  # a run must not fail because another one died
        get_run_logger().warning("flow runs that died are not marked Crashed: %s", error)


def _settle(client, flow_runs: list[str], state: State) -> list[str]:
    """Give flow runs, and what runs in them, this state where they are in none that is final; the names of those that
    no other flow had started."""
    theirs, outermost = FlowRunFilter(id={"any_": flow_runs}), []
    for flow_run in client.read_flow_runs(flow_run_filter=theirs):
        if flow_run.state is None or not flow_run.state.is_final():
            client.set_flow_run_state(flow_run.id, state, force=True)
            outermost += [flow_run.name] if flow_run.parent_task_run_id is None else []
    for task_run in client.read_task_runs(flow_run_filter=theirs):
        if task_run.state is None or not task_run.state.is_final():
            client.set_task_run_state(task_run.id, state, force=True)
    return outermost


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
        self._notifying = notified_at_exit(self.cut_off)
        self._notifying.__enter__()

    def end(self) -> None:
        self._ended.set()
        self._notifying.__exit__(None, None, None)

    def cut_off(self, why: str) -> None:
        """The process is about to end with flow runs unfinished: nobody else would report that to the server."""
        self._context.run(self._cancel_on_server, why)

    def _cancel_on_server(self, why: str) -> None:
        with (
            suppress(Exception),
            get_client(sync_client=True, httpx_settings={"timeout": NOTIFY_S}) as client,
        ):
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
        watched = [str(flow_run) for flow_run in tuple(self.flow_runs)]
        for flow_run in client.read_flow_runs(flow_run_filter=FlowRunFilter(id={"any_": watched})):
            state = flow_run.state
            cancelled = state.is_cancelling() or state.is_cancelled()
            if flow_run.id in self.flow_runs and cancelled and self._stop.why is None:
                self._stop.request(CANCELLED)
                if OF_A_WORKER in os.environ:
                    end_in_time(CANCELLED, 128 + signal.SIGTERM)


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
