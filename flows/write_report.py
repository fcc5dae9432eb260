"""Flow: trained rungs -> replies on the test splits, metrics, and the report (paper section 5)."""

from __future__ import annotations

from prefect import State, flow

from tasks.engine.run import RunRequest
from tasks.orchestration.notify import tell_failure
from tasks.orchestration.run_stages import run_stages


@flow(name="write-report", log_prints=True, on_failure=[tell_failure], on_crashed=[tell_failure])
def write_report(request: RunRequest) -> State | None:
    """Let every rung of the ladder answer the test exchanges, measure the replies, and write the tables."""
    return run_stages(request, "write_report")
