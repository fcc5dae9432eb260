"""What `empamba show` prints: a stage's rows, counts and rejects, or its figures. Knows nothing of terminals."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from storage.errors import InputError
from storage.shards import SCHEMAS, read_table
from storage.store import Ref, Store
from storage.tables import KEY_COLUMNS
from tasks.engine.run import RunRequest
from tasks.report.samples import candidate_examples

HIDDEN = {"audio", "video", "audio_path", "video_path", "media_digest", "prompt", "seed"}
"""Columns too wide or too binary for a terminal."""


@dataclass(frozen=True)
class Description:
    counts: dict
    columns: tuple[str, ...]
    rows: list[dict]


def describe(request: RunRequest, stage: str, limit: int, rejects: bool) -> Description:
    """Rows of the stage's table, or of its rejects; where it has no table, all figures of its JSON files.

    Raises InputError where the stage has not run.
    """
    with request.session() as session:
        plans = {plan.stage.name: plan for plan in session.plan(stage)}
        parts = [plan for name, plan in plans.items() if name == stage or name.startswith(f"{stage}.")]
        refs = [ref for plan in parts for refs in plan.outputs.values() for ref in refs]
        if not refs:
            reason = next((plan.reason for plan in parts if plan.reason), "it has not run")
            raise InputError(f"{stage} has nothing to show: {reason}; `empamba run --until {stage}` runs it")
        main = _main_table(refs)
        if main is None and not rejects:
            return Description(_counts(stage, main, refs), ("figure", "value"), _figures(session.store, refs))
        table = "rejects" if rejects else main
        shards = [r for r in refs if r.name.startswith(f"{table}/")]
        return Description(_counts(stage, main, refs), *_rows(session.store, table, shards, limit))


def candidate_cards(request: RunRequest, limit: int) -> list[dict]:
    """`limit` exchanges drawn by seed with all their candidates, scored as far as that was done (figure 8).

    Raises InputError where no candidate is there.
    """
    with request.session() as session:
        artefacts = {
            plan.stage.name: [ref for refs in plan.outputs.values() for ref in refs] or None
            for plan in session.plan("pairs")
        }
        for table in ("scores", "candidates"):
            if artefacts.get(table):
                return candidate_examples(artefacts, session.store, limit, table)
    raise InputError(
        "candidates has nothing to show: it has not run; `empamba run --until candidates` runs it"
    )


def _main_table(refs: list[Ref]) -> str | None:
    """The table the stage is named after: the first it puts out that is none of rejects."""
    tables = (ref.name.split("/")[0] for ref in refs)
    return next((name for name in tables if name in SCHEMAS and name != "rejects"), None)


def _counts(stage: str, table: str | None, refs: list[Ref]) -> dict:
    by: Counter = Counter()
    for ref in (r for r in refs if r.name.startswith(f"{table}/")):
        by["/".join(ref.name.split("/")[1:3])] += ref.rows
    rows = sum(by.values()) or sum(ref.rows for ref in refs if ref.tree)
    rejects = sum(ref.rejects for ref in refs if ref.name.startswith("rejects/"))
    return {"stage": stage, "rows": rows, "rejects": rejects, "by": dict(sorted(by.items()))}


def _figures(store: Store, refs: list[Ref]) -> list[dict]:
    found = []
    for ref in refs:
        if ref.name.endswith(".json"):
            found += _flat("", json.loads(store.read(ref)))
    return [{"figure": name, "value": value} for name, value in found]


def _flat(name: str, value: object) -> list[tuple[str, object]]:
    """(dotted name, value) of all that is in a JSON value; of a list how long it is where it holds figures."""
    if isinstance(value, dict):
        return [row for key, part in value.items() for row in _flat(f"{name}.{key}" if name else key, part)]
    if isinstance(value, list) and any(not isinstance(part, str) for part in value):
        return [(name, f"{len(value)} values")]
    if isinstance(value, float):
        return [(name, round(value, 6))]
    return [(name, ", ".join(value) if isinstance(value, list) else value)]


def _rows(store: Store, table: str, shards: list[Ref], limit: int) -> tuple[tuple[str, ...], list[dict]]:
    columns = tuple(name for name in SCHEMAS[table].names if name not in HIDDEN)
    if table == "rejects":
        columns = (*KEY_COLUMNS, "stage", "reason", "detail")
    rows: list[dict] = []
    for ref in shards:
        rows += read_table(store.read(ref), table, columns)[: limit - len(rows)]
        if len(rows) >= limit:
            break
    return columns, rows
