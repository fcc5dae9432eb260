"""The published report's last section: where it comes from, what the run that published it did, and what it reused.

The report itself is an artefact and the same for the same inputs; this section is not, so it is put into the
published copy alone. Knows nothing of how stages run.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import psutil
from jinja2 import Environment

from tasks.engine.fingerprint import ROOT
from tasks.engine.planner import StagePlan
from tasks.engine.runs import RunRecord
from tasks.report.templates import template

MARK = "<!-- this run -->"
REASONS = 6
LIBRARIES = ("torch", "transformers", "peft", "prefect")
GIT_S = 10
"""Seconds that git may take to say which commit this is."""


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
        "commit": commit(),
        "profile": record.profile,
        "settings changed": ", ".join(record.changes) or "none",
        "raw data": record.raw or "the bundled sample corpus",
        "libraries": ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
    }


def machine() -> str:
    """Its system, cores, memory and accelerators; no name of its own, since a report is handed on."""
    memory = psutil.virtual_memory().total / 2**30
    parts = [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} CPU cores", f"{memory:.0f} GiB"]
    return ", ".join([*parts, *_gpus(), f"Python {platform.python_version()}"])


def _gpus() -> list[str]:
    printed = _output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return [line.strip() for line in printed.splitlines() if line.strip()]


def commit() -> str:
    """The commit of the code, and whether files differ from it; where there is none, the package's version."""
    head = _output_of(["git", "-C", str(ROOT), "rev-parse", "HEAD"]) if (ROOT / ".git").exists() else ""
    if not head:
        return f"none; empamba {_version('empamba')}"
    changed = _output_of(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return head + (" with changes" if changed else "")


def _output_of(command: list[str]) -> str:
    """What a program prints; nothing where it is not there, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_S)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


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
