"""The published report's last section: where it comes from, what the run that published it did, and what it reused.

The report itself is an artefact and the same for the same inputs; this section is not, so it is put into the
published copy alone. Knows nothing of how stages run.
"""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime

import psutil
from jinja2 import Environment

from tasks.engine.planner import StagePlan
from tasks.engine.runs import RunRecord
from tasks.engine.versions import commit, output_of, version_of
from tasks.report.templates import template

MARK = "<!-- this run -->"
REASONS = 6
LIBRARIES = ("torch", "transformers", "peft", "prefect")


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


def provenance(record: RunRecord) -> dict[str, str]:
    """When, for how long, on what, from which code, with what: by name, as people read it. Reads no artefact."""
    now = datetime.now(UTC)
    seconds = round(((record.ended or now) - record.started).total_seconds())
    return {
        "run": record.id,
        "date": record.started.strftime("%Y-%m-%d %H:%M UTC"),
        "duration": f"{seconds // 60} min {seconds % 60} s, to the report",
        "machine": machine(),
        "commit": record.commit or commit(),
        "profile": record.profile,
        "settings changed": ", ".join(record.changes) or "none",
        "raw data": record.raw or "the bundled sample corpus",
        "libraries": ", ".join(f"{name} {version_of(name)}" for name in LIBRARIES),
    }


def machine() -> str:
    """Its system, cores, memory and accelerators; no name of its own, since a report is handed on."""
    memory = psutil.virtual_memory().total / 2**30
    parts = [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} CPU cores", f"{memory:.0f} GiB"]
    return ", ".join([*parts, *_gpus(), f"Python {platform.python_version()}"])


def _gpus() -> list[str]:
    printed = output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return [line.strip() for line in printed.splitlines() if line.strip()]


def published(name: str, artefact: bytes, digest: str, stages: list[dict], made: dict[str, str]) -> bytes:
    """A file of the report as it is published: page and JSON with what the run did added, others as they are."""
    if name.endswith(".html"):
        section = (
            Environment(autoescape=True)
            .from_string(template("this_run.html.j2"))
            .render(stages=stages, made=made)
        )
        return artefact.decode().replace(MARK, section).encode()
    if not name.endswith(".json"):
        return artefact
    return json.dumps(
        {**json.loads(artefact), "run": {"artefact": digest, "stages": stages, "provenance": made}},
        sort_keys=True,
    ).encode()
