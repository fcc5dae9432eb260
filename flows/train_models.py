"""Flow: shards and preference pairs -> extractor, compressor, dialogue adapters, EPO (paper section 3)."""

from __future__ import annotations

from prefect import State, flow

from tasks.engine.run import RunRequest
from tasks.orchestration.notify import tell_failure
from tasks.orchestration.run_stages import run_stages


@flow(name="train-models", log_prints=True, on_failure=[tell_failure], on_crashed=[tell_failure])
def train_models(request: RunRequest) -> State | None:
    """Fit every trained part, each on what it needs and nothing else."""
    return run_stages(request, "train_models")
