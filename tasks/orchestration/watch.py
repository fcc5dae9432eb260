"""Looking whether anything is stale, and telling it once: the event that an automation starts `refresh` by.

A change is told when two looks in a row saw the same, so that a dataset that is still being copied is waited for; and
once, so that a refresh that fails is not started again for the same reason before its night. What earlier looks saw lies
in the store's watch.json; where that is lost, a change is told once more. Knows nothing of how stages run.
"""

from __future__ import annotations

import json
from pathlib import Path

from prefect.events import emit_event

from storage.store import canonical, digest_bytes, write_atomic
from tasks.engine.planner import StagePlan
from tasks.engine.run import RunRequest, stale_plan
from tasks.engine.runs import runs
from tasks.orchestration.bounded import first_lines
from tasks.orchestration.names import name_flow_run

EVENT = "empamba.stale"
SEEN = "watch.json"
REASONS = 20
"""Reasons of each stage that the event carries."""


def emit_what_changed(request: RunRequest) -> str:
    """Look, and emit the event where it is due; what was found, in a line."""
    request = request.placed()
    root = request.folder
    going = next((record for record in runs(root)[0] if record.state == "running"), None)
    if going is not None:
        return f"run {going.id} is at work: looked at once it has ended"
    every = stale_plan(request)
    name_flow_run(request, every)
    plans = [plan for plan in every if plan.state == "stale"]
    if not plans:
        return "nothing is stale"
    seen, told = _seen(root)
    digest = _digest(request, plans)
    if digest == told:
        return "what is stale was told before"
    write_atomic(root / SEEN, json.dumps({"seen": digest, "told": told}).encode())
    if digest != seen:
        return f"{_in_a_line(plans)}: told if the next look sees the same"
    emit_event(
        EVENT,
        resource={
            "prefect.resource.id": f"empamba.store.{digest_bytes(str(root).encode())[:16]}",
            "prefect.resource.name": request.store,
        },
        payload=_payload(request, plans),
    )
    write_atomic(root / SEEN, json.dumps({"seen": digest, "told": digest}).encode())
    return f"{_in_a_line(plans)}: told"


def _seen(root: Path) -> tuple[str, str]:
    """Digests of what the last look saw, and of what was told last."""
    try:
        facts = json.loads((root / SEEN).read_bytes())
        return str(facts["seen"]), str(facts["told"])
    except (OSError, ValueError, LookupError, TypeError):
        return "", ""


def _digest(request: RunRequest, plans: list[StagePlan]) -> str:
    """Of the stale items by their keys: of what they would be made from."""
    keys = {
        p.stage.name: {item.label: item.key() for item in p.items if item.label in p.stale} for p in plans
    }
    return digest_bytes(canonical([request.model_dump(mode="json"), keys]))


def _payload(request: RunRequest, plans: list[StagePlan]) -> dict:
    return {
        "what": _in_a_line(plans),
        "raw": request.raw,
        "profile": request.profile,
        "stages": [
            {
                "stage": plan.stage.name,
                "items": len(plan.stale),
                "reasons": first_lines(plan.as_dict()["reasons"], REASONS),
            }
            for plan in plans
        ],
    }


def _in_a_line(plans: list[StagePlan]) -> str:
    """ "utterances 1 of 3 items (changed input: meld/train dialogue 17)"."""
    parts = []
    for plan in plans:
        why = first_lines(plan.as_dict()["reasons"], 3)
        parts.append(f"{plan.stage.name} {len(plan.stale)} of {len(plan.items)} items ({', '.join(why)})")
    return "; ".join(first_lines(parts, 4))
