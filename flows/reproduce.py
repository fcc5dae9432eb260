"""Flow: raw data in, metric report out; only what is stale runs."""

from __future__ import annotations

from prefect import flow

from flows.build_shards import build_shards
from flows.make_pairs import make_pairs
from flows.train_models import train_models
from flows.write_report import write_report
from tasks.orchestration import leave_summary
from tasks.run import RunRequest, publish_report, stale_plan


@flow(name="reproduce", log_prints=True)
def reproduce(request: RunRequest) -> str | None:
    """Build shards, make pairs, train models, write the report. Returns the report's path."""
    before = stale_plan(request)
    build_shards(request)
    make_pairs(request)
    train_models(request)
    write_report(request)
    report = publish_report(request)
    leave_summary(before, report)
    return report
