"""Stage `report`: everything a run left behind -> one self-contained HTML page and its JSON.

Knows nothing of how any of it was made; measures nothing itself.
"""

from __future__ import annotations

from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.report.collect import as_json, collect
from tasks.report.render import render
from tasks.settings import Settings


def write_report(
    profile: str,
    settings: Settings,
    artefacts: dict[str, list[Ref] | None],
    weights: dict[str, Weights],
    work: Workspace,
) -> list[Ref]:
    """Outputs: report.html, report.json. artefacts: stage -> its outputs, None where it did not run."""
    facts = collect(profile, settings, artefacts, weights, work.store)
    return [
        work.store.put_bytes("report.html", render(facts).encode("utf-8")),
        work.store.put_bytes("report.json", canonical(as_json(facts, settings, weights))),
    ]
