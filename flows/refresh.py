"""Flow: what a schedule runs. Plans first; when nothing is stale it says so and starts no work."""

from __future__ import annotations

from prefect import State, flow

from flows.reproduce import reproduce
from tasks.engine.run import RunRequest
from tasks.orchestration.account import accounted
from tasks.orchestration.monitor import monitored
from tasks.orchestration.notify import tell_failure
from tasks.orchestration.run_stages import as_part


@flow(name="refresh", log_prints=True, on_failure=[tell_failure], on_crashed=[tell_failure])
def refresh(request: RunRequest) -> str | State | None:
    """Run `reproduce` if anything is stale. Returns the report's path, or None when nothing was."""
    with monitored(request) as stop, accounted(request) as account:
        if not account.stale:
            print("nothing is stale: no task was run")
            return None
        return as_part(reproduce, request, stop)
