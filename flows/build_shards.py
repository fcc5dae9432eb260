"""Flow: raw datasets -> utterance, exchange and feature shards."""

from __future__ import annotations

from prefect import State, flow

from tasks.engine.run import RunRequest
from tasks.orchestration.notify import tell_failure
from tasks.orchestration.run_stages import run_stages


@flow(name="build-shards", log_prints=True, on_failure=[tell_failure], on_crashed=[tell_failure])
def build_shards(request: RunRequest) -> State | None:
    """Read the raw trees, cut dialogues into exchanges, and encode every clip."""
    return run_stages(request, "build_shards")
