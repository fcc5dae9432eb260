"""Flow: raw datasets -> utterance, exchange and feature shards."""

from __future__ import annotations

from prefect import State, flow

from tasks.engine.orchestration import run_stages
from tasks.engine.run import RunRequest, open_run


@flow(name="build-shards", log_prints=True, validate_parameters=True)
def build_shards(request: RunRequest) -> State | None:
    """Read the raw trees, cut dialogues into exchanges, and encode every clip."""
    with open_run(request) as run:
        return run_stages(run, "build_shards", request.until)
