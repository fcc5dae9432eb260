"""Flow: what a schedule looks with. Plans, runs nothing, and emits an event with what changed, which starts `refresh`."""

from __future__ import annotations

from prefect import flow

from tasks.engine.run import RunRequest
from tasks.orchestration.watch import emit_what_changed, tell_new_failure


@flow(name="watch", log_prints=True, on_failure=[tell_new_failure], on_crashed=[tell_new_failure])
def watch(request: RunRequest) -> str:
    """Emit `empamba.stale` where something is stale that no earlier look has told. Returns what it found, in a line."""
    found = emit_what_changed(request)
    print(found)
    return found
