"""The published report's last section: what the run that published it did, and what it reused.

The report itself is an artefact and the same for the same inputs; this section is not, so it is put into the
published copy alone. Knows nothing of how stages run.
"""

from __future__ import annotations

import json

from jinja2 import Environment

from tasks.engine.planner import StagePlan
from tasks.report.templates import template

MARK = "<!-- this run -->"
REASONS = 6


def describe(plans: list[StagePlan]) -> list[dict]:
    """One row for each settled stage: items that ran, items reused, and why the former ran."""
    rows = []
    for plan in plans:
        why = plan.as_dict()["reasons"]
        more = [f"and {len(why) - REASONS} more"] if len(why) > REASONS else []
        ran = len(plan.stale)
        rows.append(
            {
                "stage": plan.stage.name,
                "ran": ran,
                "reused": len(plan.items) - ran,
                "why": [*why[:REASONS], *more],
            }
        )
    return rows


def published(name: str, artefact: bytes, digest: str, stages: list[dict]) -> bytes:
    """The report or its JSON as it is published: the artefact with what the run did added."""
    if name.endswith(".html"):
        section = Environment(autoescape=True).from_string(template("this_run.html.j2")).render(stages=stages)
        return artefact.decode().replace(MARK, section).encode()
    return json.dumps(
        {**json.loads(artefact), "run": {"artefact": digest, "stages": stages}}, sort_keys=True
    ).encode()
