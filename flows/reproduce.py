"""Flow: raw data in, metric report out; only what is stale runs."""

from __future__ import annotations

from prefect import State, flow

from flows.build_shards import build_shards
from flows.make_pairs import make_pairs
from flows.train_models import train_models
from flows.write_report import write_report
from tasks.engine.run import RunRequest, open_run, publish_report
from tasks.orchestration.account import accounted
from tasks.orchestration.notify import tell_failure
from tasks.orchestration.run_stages import side_by_side


@flow(name="reproduce", log_prints=True, on_failure=[tell_failure], on_crashed=[tell_failure])
def reproduce(request: RunRequest) -> str | State | None:
    """Build shards, make pairs, train models, write the report; each stage as soon as it can. Returns its path,
    or the state Cancelled where the run was stopped."""
    with accounted(request) as account, open_run(request) as run:
        account.run = run
        stopped = side_by_side(run, request, build_shards, make_pairs, train_models, write_report)
        if stopped is not None:
            account.outcome = f"stopped: {stopped.message}"
            return stopped
        account.report = publish_report(request, run.settled(), run.note)
        return account.report
