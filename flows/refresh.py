"""Flow: what a schedule runs. Plans first; when nothing is stale it says so and starts no work, but publishes the report
where the copy beside the store's artefacts is another one's."""

from __future__ import annotations

from prefect import State, flow

from flows.reproduce import reproduce
from tasks.engine.run import RunRequest, publish_where_missing
from tasks.orchestration.account import accounted
from tasks.orchestration.monitor import monitored
from tasks.orchestration.notify import tell_failure
from tasks.orchestration.run_stages import as_part


@flow(name="refresh", log_prints=True, on_failure=[tell_failure], on_crashed=[tell_failure])
def refresh(request: RunRequest) -> str | State | None:
    """Run `reproduce` if anything is stale. Returns the report's path where one was published, else None."""
    with monitored(request) as stop, accounted(request) as account:
        if not account.stale:
            print("nothing is stale: no task was run")
            report = publish_where_missing(request, account.before)
            if report is not None:
                print(f"published: {report}")
            return report
        return as_part(reproduce, request, stop)
