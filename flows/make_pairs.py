"""Flow: exchange shards -> candidates, their scores, and preference pairs (paper section 3.3)."""

from __future__ import annotations

from prefect import State, flow

from tasks.engine.run import RunRequest
from tasks.orchestration.notify import tell_failure
from tasks.orchestration.run_stages import run_stages


@flow(name="make-pairs", log_prints=True, on_failure=[tell_failure], on_crashed=[tell_failure])
def make_pairs(request: RunRequest) -> State | None:
    """Let the LLM write eight candidates per sentence, score them, and choose the counter-emotional reply."""
    return run_stages(request, "make_pairs")
