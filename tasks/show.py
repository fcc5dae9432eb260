"""What `empamba show` prints: a stage's rows, counts and rejects, its figures, or a trained stage's summary
("story"). Knows nothing of terminals."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from storage.draws import draw_number
from storage.errors import InputError
from storage.shards import SCHEMAS, read_table
from storage.store import Ref, Store
from storage.tables import KEY_COLUMNS
from tasks.engine.planner import StagePlan
from tasks.engine.run import RunRequest
from tasks.engine.runs import worked_seconds
from tasks.nested import leaves
from tasks.report.cells import measured
from tasks.report.figures import MAIN
from tasks.report.samples import SEED, candidate_examples
from tasks.stages.verdicts import quality_line, training_line
from tasks.terminal import seconds_text

HIDDEN = {"audio", "video", "audio_path", "video_path", "media_digest", "prompt", "seed"}
"""Columns that a terminal cannot show."""
GROUPS = 8
"""Lines that a training's groups of figures may take."""
SHOWN_ELSEWHERE = ("heldout_before", "heldout_after", "history", "learned")
"""Keys of a training's report that its summary shows elsewhere."""


@dataclass(frozen=True)
class Description:
    """columns, rows: the listing. lines: further messages. stories: summaries of trained parts. systems: measured
    systems, shown in place of rows.
    """

    counts: dict
    columns: tuple[str, ...]
    rows: list[dict]
    lines: tuple[str, ...] = ()
    stories: tuple[dict, ...] = ()
    systems: list[dict] | None = None


def describe(
    request: RunRequest, stage: str, limit: int, rejects: bool, seed: int | None = None
) -> Description:
    """Rows of the stage's table, or of its rejects; where it has no table, all figures of its JSON files.

    seed: as for `table_rows`. Raises InputError where the stage has not run, or has no rows to draw by a seed.
    """
    with request.session() as session:
        plans = {plan.stage.name: plan for plan in session.plan(stage)}
        parts = [
            plan
            for name, plan in plans.items()
            if name == stage or name.startswith(f"{stage}.") and not plan.stage.variant
        ]
        refs = [ref for plan in parts for ref in _outputs(plan)]
        if not refs:
            raise InputError(_nothing(request, stage, parts))
        own = [ref for plan in parts if plan.stage.name == stage for ref in _outputs(plan)]
        if main_table(own) is not None:
            refs = own  # those of its controls are other rows of the same table: `show pairs.random`
        main, store = main_table(refs), session.store
        counts = _counts(stage, main, refs)
        table = "rejects" if rejects else main
        if table is not None:
            shards = [r for r in refs if r.name.startswith(f"{table}/")]
            shown = table_rows(store, table, shards, limit, seed)
            return Description(counts, *shown, _messages(store, parts))
        if seed is not None:
            raise InputError(f"{stage} has figures and no rows: --seed draws rows")
        measured = _measured(store, refs)
        if measured is not None:
            return Description(counts, (), [], _messages(store, parts), systems=measured["systems"])
        found = tuple(story for plan in parts for story in stories(store, plan))
        figures = [row for plan in parts for row in _figures(store, plan, len(parts) > 1)]
        return Description(counts, ("figure", "value"), figures, _messages(store, parts), found)


def _outputs(plan: StagePlan) -> list[Ref]:
    return [ref for refs in plan.outputs.values() for ref in refs]


def _nothing(request: RunRequest, stage: str, parts: list[StagePlan]) -> str:
    """Why there is nothing to show, and the command that changes it."""
    stale = next((line for plan in parts for lines in plan.stale.values() for line in lines), None)
    reason = next((plan.reason for plan in parts if plan.reason), stale) or "it has not run"
    if any(plan.state == "not run" for plan in parts):
        return f"{stage} has nothing to show: not run: {reason}"
    return f"{stage} has nothing to show: {reason}; `{request.command('run', '--until', stage)}` runs it"


def _messages(store: Store, parts: list[StagePlan]) -> tuple[str, ...]:
    """A line for every part that has a verdict, or was not run, with the reason."""
    lines = []
    for plan in parts:
        if plan.state == "not run":
            lines.append(f"{plan.stage.name}: not run: {plan.reason}")
        for refs in plan.outputs.values():
            line = quality_line(store, refs)
            if line:
                lines.append(f"{plan.stage.name}: {line}")
    return tuple(lines)


def system_rows(systems: list[dict], intervals: bool = True) -> tuple[tuple[str, ...], list[dict]]:
    """Columns and rows of measured systems, each figure with its interval; of metrics.json or of report.json."""
    columns = ("rung", "dataset", "split", "n", "dialogues", *(figure.short for figure in MAIN))
    rows = []
    for system in systems:
        row = {name: system.get(name) for name in ("rung", "dataset", "split", "n", "dialogues")}
        for figure in MAIN:
            row[figure.short] = measured(system, figure).line(intervals)
        rows.append(row)
    return columns, rows


def _measured(store: Store, refs: list[Ref]) -> dict | None:
    """The facts of metrics.json or report.json, where one of them is among the artefacts."""
    named = (ref for ref in refs if ref.name in ("metrics.json", "report.json"))
    return next((json.loads(store.read(ref)) for ref in named), None)


def stories(store: Store, plan: StagePlan) -> list[dict]:
    """The story of each trained item: verdict, (figure, before, after), curves, and facts by name."""
    found = []
    for label, refs in plan.outputs.items():
        report = training_report(store, refs)
        if report is not None:
            found.append(
                {
                    "stage": plan.stage.name,
                    "verdict": training_line(store, refs) or "",
                    "figures": _before_and_after(report),
                    "curves": _curves(report.get("history", {})),
                    "facts": _training_facts(store, plan.stage.name, label, report),
                }
            )
    return found


def training_report(store: Store, refs: Iterable[Ref]) -> dict | None:
    for tree in (ref for ref in refs if ref.tree):
        for member in store.members(tree):
            if member.name == "report.json":
                return json.loads(store.read(member))
    return None


def _before_and_after(report: dict) -> list[tuple[str, float, float]]:
    """Held-out figures, loss first, without the steps they were taken at."""
    before, after = (
        figures if isinstance(figures, dict) else {"loss": figures}
        for figures in (report.get("heldout_before") or {}, report.get("heldout_after") or {})
    )
    names = sorted((before.keys() & after.keys()) - {"step"}, key=lambda name: (name != "loss", name))
    return [(name, before[name], after[name]) for name in names if _is_number(before[name], after[name])]


def _curves(history: dict) -> list[tuple[str, list[float]]]:
    curves = []
    for part, title in (("train", "train loss"), ("heldout", "held-out loss")):
        values = [entry["loss"] for entry in history.get(part, ()) if "loss" in entry]
        if values:
            curves.append((title, values))
    return curves


def _training_facts(store: Store, stage: str, label: str, report: dict) -> list[tuple[str, object]]:
    """Steps, time, training data, and every other figure of its report."""
    history = report.get("history", {})
    steps = len(history.get("train", ()))
    took = worked_seconds(store.root, stage)
    facts = [
        ("steps", f"{steps}, the weights kept are those of step {history.get('best_step', 0)}"),
        ("ended by", history.get("ended") or "no step was taken"),
        ("trained on", f"{history.get('rows', 0)} rows, {history.get('tokens', 0)} tokens"),
        ("time", "not recorded" if took is None else seconds_text(took)),
        ("reads", _inputs((store.last(stage, label) or {}).get("parts", {}))),
    ]
    for name, value in report.items():
        if name not in SHOWN_ELSEWHERE:
            facts += _readable(name, value)
    return [(name, value) for name, value in facts if value not in ("", None)]


def _inputs(parts: dict) -> str:
    """What an item was last made from: "utterances 8, exchanges 8, adapter; weights smollm2-135m-instruct"."""
    names: Counter = Counter(name.split(" ")[-1].split("/")[0] for name in parts.get("input", {}))
    read = ", ".join(name if n == 1 else f"{n} shards of {name}" for name, n in sorted(names.items()))
    weights = ", ".join(parts.get("weights", {}))
    return "; weights ".join(part for part in (read, weights) if part)


def _readable(name: str, value: object) -> list[tuple[str, object]]:
    """A report's value as lines: a group of figures is one line, a group of groups one of each; no lists."""
    title = name.replace("_", " ")
    if not isinstance(value, dict):
        return [] if isinstance(value, list) else [(title, value)]
    if any(isinstance(inner, dict) for inner in value.values()):
        lines = [line for key, inner in value.items() for line in _readable(f"{name} {key}", inner)]
        return lines if len(lines) <= GROUPS else [(title, f"{len(lines)} groups of figures: see --json")]
    parts = [f"{key} {_short(inner)}" for key, inner in value.items() if not isinstance(inner, list)]
    return [(title, ", ".join(parts))]


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(*values: object) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def candidate_cards(request: RunRequest, limit: int, seed: int | None = None) -> list[dict]:
    """`limit` exchanges drawn by seed (None: the report's) with all their candidates, scored as far as that was done (figure 8).

    Raises InputError where no candidate is there.
    """
    with request.session() as session:
        artefacts = {plan.stage.name: _outputs(plan) or None for plan in session.plan("pairs")}
        for table in ("scores", "candidates"):
            if artefacts.get(table):
                return candidate_examples(
                    artefacts, session.store, limit, table, SEED if seed is None else seed
                )
    command = request.command("run", "--until", "candidates")
    raise InputError(f"candidates has nothing to show: it has not run; `{command}` runs it")


def main_table(refs: list[Ref]) -> str | None:
    """The stage's main table: the first one it writes other than rejects."""
    tables = (ref.name.split("/")[0] for ref in refs)
    return next((name for name in tables if name in SCHEMAS and name != "rejects"), None)


def _counts(stage: str, table: str | None, refs: list[Ref]) -> dict:
    by: Counter = Counter()
    for ref in (r for r in refs if r.name.startswith(f"{table}/")):
        by["/".join(ref.name.split("/")[1:3])] += ref.rows
    rows = sum(by.values()) or sum(ref.rows for ref in refs if ref.tree)
    rejects = sum(ref.rejects for ref in refs if ref.name.startswith("rejects/"))
    return {"stage": stage, "rows": rows, "rejects": rejects, "by": dict(sorted(by.items()))}


def _figures(store: Store, plan: StagePlan, named: bool) -> list[dict]:
    """Every figure of a part's JSON files and of its training's report; `named` by the part where there are several."""
    prefix, found = plan.stage.name if named else "", []
    for refs in plan.outputs.values():
        for ref in (r for r in refs if r.name.endswith(".json")):
            found += _named_figures(prefix, json.loads(store.read(ref)))
        found += _named_figures(prefix, training_report(store, refs) or {})
    return [{"figure": name, "value": value} for name, value in found]


def _named_figures(prefix: str, value: object) -> list[tuple[str, object]]:
    """(dotted name, value) of all that is in a JSON value."""
    named = [prefix] if prefix else []
    return [(".".join([*named, *names]), _shown(part)) for names, part in leaves(value, dict)]


def _shown(value: object) -> object:
    """Of a list how long it is where it holds figures."""
    if isinstance(value, list):
        texts = all(isinstance(part, str) for part in value)
        return ", ".join(value) if texts else f"{len(value)} values"
    return round(value, 6) if isinstance(value, float) else value


def table_rows(
    store: Store, table: str, shards: list[Ref], limit: int, seed: int | None = None
) -> tuple[tuple[str, ...], list[dict]]:
    """Columns, and the first `limit` rows; with a seed as many drawn by it from all rows, of which fewer are the first ones."""
    columns = tuple(name for name in SCHEMAS[table].names if name not in HIDDEN)
    if table == "rejects":
        columns = (*KEY_COLUMNS, "stage", "reason", "detail")
    found = (
        (ref.name, place, row)
        for ref in shards
        for place, row in enumerate(read_table(store.read(ref), table, columns))
    )
    if seed is None:
        chosen = list(islice(found, limit))
    else:
        chosen = heapq.nsmallest(limit, found, key=lambda f: draw_number(seed, "show.rows", *f[:2]))
    # A figure that nothing measured, as the cosine of a pair that people chose.
    return columns, [{name: None if v != v else v for name, v in row.items()} for *_, row in chosen]
