"""Looking whether anything is stale, and telling it once: the event that an automation starts `refresh` by.

A change is told when two looks in a row saw the same, so that a dataset that is still being copied is waited for; and
once, so that a refresh that fails is not started again for the same reason before its night. A look that fails is told
once too, and so is the next one that does not. What earlier looks saw lies in the store's watch.json; where that is lost,
or cannot be written, it is told once more. Knows nothing of how stages run.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from prefect import Flow, State
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event

from storage.store import StoreError, canonical, digest_bytes, write_atomic
from tasks.engine.planner import StagePlan
from tasks.engine.run import RunRequest, stale_plan
from tasks.engine.runs import runs
from tasks.orchestration.bounded import first_lines
from tasks.orchestration.names import name_flow_run
from tasks.orchestration.notify import send

EVENT = "empamba.stale"
SEEN = "watch.json"
REASONS = 20
"""Reasons of each stage that the event carries."""


@dataclass(frozen=True)
class Known:
    """Digests of what the last look saw and of what was told last; and the failure that was told last, "" once a look has ended well."""

    seen: str = ""
    told: str = ""
    failed: str = ""


def emit_what_changed(request: RunRequest) -> str:
    """Look, and emit the event where it is due; what was found, in a line."""
    request = request.placed()
    root = request.folder
    going = next((record for record in runs(root)[0] if record.state == "running"), None)
    if going is not None:
        return f"run {going.id} is at work: looked at once it has ended"
    every = stale_plan(request)
    name_flow_run(request, every)
    _tell_recovery(root)
    plans = [plan for plan in every if plan.state == "stale"]
    if not plans:
        return "nothing is stale"
    known = _known(root)
    digest = _digest(request, plans)
    if digest == known.told:
        return "what is stale was told before"
    _keep(root, replace(known, seen=digest))
    if digest != known.seen:
        return f"{_in_a_line(plans)}: told if the next look sees the same"
    emit_event(
        EVENT,
        resource={
            "prefect.resource.id": f"empamba.store.{digest_bytes(str(root).encode())[:16]}",
            "prefect.resource.name": request.store,
        },
        payload=_payload(request, plans),
    )
    _keep(root, replace(known, seen=digest, told=digest))
    return f"{_in_a_line(plans)}: told"


def tell_new_failure(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """The hook of a look that failed or crashed: tells it unless the last one that was told is the same.

    One that reached nobody is told by the next look.
    """
    message, root = state.message or "no message", _root_of(flow_run)
    known = Known() if root is None else _known(root)
    if known.failed == message:
        return
    told = send(f"{flow.name} {flow_run.name}: {state.name}", message)
    if told and root is not None:
        with suppress(StoreError):
            _keep(root, replace(known, failed=message))


def _root_of(flow_run: FlowRun) -> Path | None:
    """The store that a look was asked about; None where its request is none."""
    try:
        return RunRequest.model_validate(flow_run.parameters["request"]).folder
    except (LookupError, ValueError):
        return None


def _tell_recovery(root: Path) -> None:
    known = _known(root)
    if known.failed and send("watch: it looks again", f"This is over: {known.failed}", kind="success"):
        _keep(root, replace(known, failed=""))


def _known(root: Path) -> Known:
    try:
        facts = json.loads((root / SEEN).read_bytes())
        return Known(*(str(facts.get(name, "")) for name in ("seen", "told", "failed")))
    except (OSError, ValueError, AttributeError):
        return Known()


def _keep(root: Path, known: Known) -> None:
    write_atomic(root / SEEN, json.dumps(asdict(known)).encode())


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
