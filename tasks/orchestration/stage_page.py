"""A settled stage in Prefect's UI: a page that tells its story, and a table of its items.

The page has the verdict, what a training began and ended with, its losses as a plot, counts, samples, what was rejected
and why, and the digests of what it made. Knows nothing of how stages run.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import UUID

from prefect.artifacts import MarkdownArtifact, TableArtifact

from storage.files import shell_word, store_name
from storage.shards import read_table
from storage.store import Ref, Store, StoreError
from tasks.engine.planner import StagePlan
from tasks.orchestration.bounded import first_lines, link, page, parts, short, table
from tasks.show import main_table, stories, table_rows, training_report
from tasks.terminal import clean, seconds_text

SAMPLES, DIGESTS, FACTS, PARTS = 3, 40, 40, 20
"""Rows, artefacts and facts that a page shows, and tables that a stage's items may take."""
PLOT_BYTES = 40_000
"""Of a plot: the page has to have room for the rest."""
WHITE = "background:#fff"
"""Under a plot, whose lines are dark: Prefect's page is dark too unless a person chose otherwise."""


def create_page(
    store: Store, plan: StagePlan, verdict: str | None, took_s: float | None, task_run: UUID | None
) -> None:
    """The stage's page and its table. task_run: where one item ran, its task run, which shows the page too."""
    key = stage_key(plan.stage.name)
    about = f"{plan.stage.name}: {len(plan.stale)} of {len(plan.items)} items ran" + (
        f"; {verdict}" if verdict else ""
    )
    found = tables(plan)
    keys = [key, *(f"{key}-part-{number}" for number in range(2, len(found) + 1))]
    for name, rows in zip(keys, found, strict=True):
        TableArtifact(key=name, table=rows, description=short(about)).create()
    lines = page_lines(store, plan, verdict, took_s, keys)
    MarkdownArtifact(
        key=f"{key}-page", markdown=page(lines), description=short(about), task_run_id=task_run
    ).create()


def stage_key(stage: str) -> str:
    """The key of the stage's table; its page's has "-page" behind it."""
    return "stage-" + re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")


def rejects(refs: Iterable[Ref]) -> int:
    """Rejected rows named by the rejects tables among an item's artefacts."""
    return sum(ref.rejects for ref in refs if ref.name.startswith("rejects/"))


def rejected_for(store: Store, refs: Iterable[Ref]) -> Counter[str]:
    """Reason -> rows of the rejects tables among some artefacts."""
    found: Counter[str] = Counter()
    for ref in refs:
        if ref.rejects and ref.name.startswith("rejects/"):
            try:
                rows = read_table(store.read(ref), "rejects", ("reason",))
            except StoreError:
                rows = [{"reason": "its table is damaged"}] * ref.rejects
            found.update(str(row["reason"]) for row in rows)
    return found


# The table --------------------------------------------------------------------------------------------


def tables(plan: StagePlan) -> list[list[dict]]:
    """Each item, whether it ran and why, in tables that fit; then every reason that an item's row has no room for."""
    if not plan.outputs:
        return [[{"item": "-", "ran": "no", "why": plan.reason}]]
    items = [
        {
            "item": label,
            "ran": "yes" if label in plan.stale else "reused",
            "why": "; ".join(first_lines(plan.stale.get(label, []), 3)),
            "rows": sum(ref.rows for ref in refs),
            "rejects": rejects(refs),
            "artefacts": ", ".join(ref.name for ref in refs[:8]),
        }
        for label, refs in sorted(plan.outputs.items())
    ]
    reasons = [
        {"item": label, "why": line}
        for label, lines in plan.stale.items()
        if len(lines) > 3
        for line in lines
    ]
    found = [*parts(items), *parts(reasons)]
    left = sum(map(len, found[PARTS:]))
    more = [[{"item": "…", "why": f"and {left:,} rows more: `empamba status --json` before a run lists all"}]]
    return found[:PARTS] + (more if left else [])


# The page ---------------------------------------------------------------------------------------------


def page_lines(
    store: Store, plan: StagePlan, verdict: str | None, took_s: float | None, keys: Sequence[str]
) -> list[str]:
    """The page. keys: of the tables that have what it leaves out."""
    refs = [ref for refs in plan.outputs.values() for ref in refs]
    lines = [f"# {clean(plan.stage.title or plan.stage.name)}", ""]
    if plan.state == "not run":
        return [*lines, f"Not run: {plan.reason}"]
    if verdict:
        lines += [f"**{clean(verdict)}**", ""]
    lines += [_counted(plan, refs, took_s), ""]
    lines += [f"Every item, and why it ran: {', '.join(link(key, key) for key in keys)}", ""]
    lines += _training(store, plan)
    if plan.stale:
        why = list(dict.fromkeys(line for reasons in plan.stale.values() for line in reasons))
        lines += ["## Why it ran", "", *(f"- {clean(line)}" for line in first_lines(why)), ""]
    if plan.behind:
        lines += [
            "## Behind its data", "", *(f"- {label}: {line}" for label, line in plan.behind.items()), "",
        ]  # fmt: skip
    lines += _samples(store, refs)
    found = rejected_for(store, refs)
    if found:
        lines += ["## Rejected", "", *table(("reason", "rows"), found.most_common())]
    rows = [(ref.name, f"`{ref.digest}`", f"{ref.rows:,}", f"{ref.size:,}") for ref in refs[:DIGESTS]]
    lines += ["## Artefacts", "", *table(("name", "digest", "rows", "bytes"), rows)]
    if len(refs) > DIGESTS:
        lines += [f"… and {len(refs) - DIGESTS:,} more", ""]
    return [*lines, report_line(store.root)]


def report_line(root: Path, *arguments: str) -> str:
    """Where the report of this store is. No link: a browser opens no file from a page of a server, least of all another machine's."""
    words = ["empamba", "report", *arguments, "--store", store_name(root)]
    command = " ".join(map(shell_word, words))
    return f"Report: `{command}` prints it; its page, on the machine of the run: `{root / 'report.html'}`"


def _counted(plan: StagePlan, refs: Sequence[Ref], took_s: float | None) -> str:
    ran = len(plan.stale)
    took = f" ({seconds_text(took_s)} of work)" if took_s and ran else ""
    counts = f"Items run: {ran:,}{took}, reused: {len(plan.items) - ran:,}"
    return f"{counts}; {sum(ref.rows for ref in refs):,} rows, {rejects(refs):,} rejected"


def _training(store: Store, plan: StagePlan) -> list[str]:
    """Of each training: figures before and after, the plot of its losses, and its facts."""
    lines: list[str] = []
    for story, refs in zip(stories(store, plan), _trained(store, plan), strict=True):
        figures = [(name, f"{before:.4g}", f"{after:.4g}") for name, before, after in story["figures"]]
        lines += ["## Held out", "", *table(("figure", "before", "after"), figures)]
        history = (training_report(store, refs) or {}).get("history") or {}
        if history.get("heldout"):
            lines += ["## Losses", "", _plot(history), ""]
        # What it took is said above; the store's record of this run is not written yet.
        facts = [(name, value) for name, value in story["facts"] if name != "time"][:FACTS]
        lines += ["## The training", "", *table(("fact", "value"), facts)]
    return lines


def _trained(store: Store, plan: StagePlan) -> list[tuple[Ref, ...]]:
    return [refs for refs in plan.outputs.values() if training_report(store, refs) is not None]


def _plot(history: dict) -> str:
    """The losses as an image within the page."""
    from tasks.report.plots import loss_curve  # matplotlib, which a run without a training never needs

    kind, _, data = loss_curve(history).partition("base64,")
    drawn = base64.b64decode(data).replace(b"<svg ", f'<svg style="{WHITE}" '.encode(), 1)
    image = f"![loss by step]({kind}base64,{base64.b64encode(drawn).decode()})"
    return image if len(image) <= PLOT_BYTES else "The plot has no room here; the report has it."


def _samples(store: Store, refs: list[Ref]) -> list[str]:
    """The first rows of the stage's main table, one by one: a table of many columns has no room on a page."""
    name = main_table(refs)
    if name is None:
        return []
    columns, rows = table_rows(store, name, [r for r in refs if r.name.startswith(f"{name}/")], SAMPLES)
    lines = ["## Samples", ""]
    for row in rows:
        found = [
            (column, clean(str(row[column]))) for column in columns if row.get(column) not in (None, "", [])
        ]
        lines += table(("column", "value"), found)
    return lines if rows else []
