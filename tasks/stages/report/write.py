"""Stage `report`: everything a run left behind -> one self-contained HTML page, its JSON, and its figures as CSV.

Knows nothing of how any of it was made; measures nothing itself.
"""

from __future__ import annotations

from typing import Any

from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.report.collect import as_json, collect
from tasks.report.figures import as_csv
from tasks.report.render import render
from tasks.settings import Settings


def write_report(
    profile: str,
    settings: Settings,
    artefacts: dict[str, list[Ref] | None],
    weights: dict[str, Weights],
    stages: list[dict[str, Any]],
    licences: dict[str, dict[str, str]],
    work: Workspace,
    variants: dict[str, dict[str, list[Ref] | None]] | None = None,
    seeds: tuple[int, ...] = (0,),
) -> list[Ref]:
    """Outputs: report.html, report.json, report.csv. artefacts: stage -> its outputs, None where it did not run.

    stages: of every stage its name, title, whether it trains, and why it was not run. licences: of the weights by role,
    of the datasets by name. variants: other seeds, and trainings on one dataset alone -> stage -> outputs. seeds: of
    the run's trainings.
    """
    facts = collect(profile, settings, artefacts, weights, stages, licences, work.store, variants, seeds)
    return [
        work.store.put_bytes("report.html", render(facts).encode("utf-8")),
        work.store.put_bytes("report.json", canonical(as_json(facts, settings, weights))),
        work.store.put_bytes("report.csv", as_csv(facts["systems"])),
    ]
