"""What a run made: `show` a stage's rows, the `report`, `export` of preference pairs and of replies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from flows.cli.options import AsJson, WhichRun, grouped
from flows.cli.output import out
from storage.errors import InputError
from storage.store import Store, StoreError, write_atomic
from tasks.engine.run import RunRequest, read_report, stale_plan
from tasks.engine.runs import runs
from tasks.listing import candidate_card, listing, story
from tasks.terminal import clean, json_line

WIDE = 120
"""Characters of a terminal that has room for intervals beside figures."""


@grouped
def show(
    which: WhichRun,
    stage: Annotated[str, typer.Argument(help="A stage, or a part of one: pairs, pairs.quality.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows to print.")] = 5,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Draw them from all rows by this seed; without one they are the first."),
    ] = None,
    rejects: Annotated[
        bool, typer.Option("--rejects", help="Rejected rows instead, with their reasons.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """A stage's rows, counts and rejects; of a trained stage what it learned; candidates as in figure 8."""
    from tasks.show import candidate_cards, describe

    request, _ = which.chosen()
    cards = candidate_cards(request, rows, seed) if stage == "candidates" and not rejects else None
    if cards is not None and not as_json:
        for card in cards:
            out.print(candidate_card(card, out.width))
        return
    found = describe(request, stage, rows, rejects, seed)
    if as_json:
        shown = next(rows for rows in (cards, found.systems, found.rows) if rows is not None)
        json_line({**found.counts, "shown": shown})
        return
    for summary in found.stories:
        out.print(story(summary, out.width))
    if found.systems is not None:
        out.print(_systems(stage, found.systems))
    elif not found.stories:
        counted = f"{found.counts['rows']} rows, {found.counts['rejects']} rejects"
        title = f"{stage}: {'figures' if 'figure' in found.columns else counted}"
        out.print(listing(title, found.columns, found.rows, out.width))
    for line in (*found.lines, ", ".join(f"{place} {n}" for place, n in found.counts["by"].items())):
        if line:
            out.print(Text(clean(line)))


Against = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="Beside another run: its id, another store's folder, or a report.json; what changed, and each figure then and now.",
    ),
]


@grouped
def report(which: WhichRun, against: Against = None, as_json: AsJson = False) -> None:
    """A run's report, unless told the last: its answers and tables, or its JSON; or what changed against another run."""
    from tasks.engine.run import published
    from tasks.report.tables import report_tables

    request, record = which.chosen(with_report=True)
    digest, page = (record.report, record.page) if record is not None else _report_of(request)
    if digest is None:
        why = "no report with these settings" if record is None else f"run {record.id} came to no report"
        other = next((r.id for r in runs(which.store)[0] if r.report), None)
        hint = "" if other is None else f"; --run {other} has one"
        raise InputError(f"{why}: `{request.command('run')}` writes one{hint}")
    if against is not None:
        from tasks.against import compared, side_of, side_of_settings

        now = side_of_settings(request, digest) if record is None else side_of(which.store, record)
        comparison = compared(which.store, against, now)
        if as_json:
            json_line(comparison)
        else:
            _print_comparison(which.store, comparison, digest, page)
        return
    facts = read_report(request, digest)
    if as_json:
        json_line(facts)
        return
    damaged = StoreError(
        f"{which.store / 'report.json'}: damaged; `{request.command('run')}` writes it again"
    )
    try:
        title = facts["title"]
        tables, absent = report_tables(facts, out.width >= WIDE)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged from error
    out.print(Text(clean(title), style="bold"))
    for table in tables:
        out.print(listing(table.title, table.columns, table.rows, out.width, share=False))
        for line in table.lines:
            out.print(Text(clean(line)))
    if absent:
        out.print(Text(f"not in this run: {', '.join(absent)}; the page says why"))
    if published(Store(which.store)) == digest:
        out.say(str(which.store / "report.html"))
    else:
        out.say(
            f"{which.store / 'report.html'} is another run's; `{request.command('run')}` publishes this one"
        )


def _print_comparison(root: Path, comparison: dict, digest: str, page: str | None) -> None:
    """In the terminal, and as a section of a copy of the page, beside the store's report."""
    from tasks.against import page_of
    from tasks.report import against

    title = f"run {comparison['now']['run']} beside run {comparison['then']['run']}"
    out.print(listing(title, against.RUN_COLUMNS, against.run_rows(comparison), out.width, share=False))
    changed = against.changed_rows(comparison)
    if changed:
        out.print(listing("what changed", against.CHANGED_COLUMNS, changed, out.width, share=False))
    else:
        out.say("what changed: no setting, count, weight, verdict of a training or grade of an answer")
    answers = against.answer_rows(comparison)
    if answers:
        out.print(listing("answers that differ", against.ANSWER_COLUMNS, answers, out.width, share=False))
    first, rest = against.leading(comparison["figures"])
    if first:
        rows = against.figure_rows(first, out.width >= WIDE)
        out.print(listing("figures that differ", against.FIGURE_COLUMNS, rows, out.width, share=False))
    for why, count in against.reasons(comparison).items():
        out.say(
            f"{count} not paired: {why}; the two intervals stand beside each other, no interval of the difference"
        )
    more = f"; {len(rest)} more that differ stand in the page" if rest else ""
    out.say(f"{comparison['equal']} figures are the same in both{more}")
    if page is not None:
        copy = root / "report-against.html"
        write_atomic(copy, against.with_section(page_of(root, digest, page), comparison).encode("utf-8"))
        out.say(str(copy))


def _systems(title: str, systems: list[dict]) -> RenderableType:
    """Measured systems, with intervals where the terminal has room for them."""
    from tasks.show import system_rows

    return listing(title, *system_rows(systems, out.width >= WIDE), out.width, share=False)


def _report_of(request: RunRequest) -> tuple[str | None, str | None]:
    """The digests of report.json and report.html that lie there with these settings and data, if they are fresh."""
    plan = next(plan for plan in stale_plan(request) if plan.stage.name == "report")
    found = {ref.name: ref.digest for ref in plan.outputs.get("all", ())}
    return found.get("report.json"), found.get("report.html")


@grouped
def export_pairs(
    which: WhichRun,
    folder: Annotated[Path, typer.Argument(help="A new folder for Parquet files and data card.")],
) -> None:
    """Preference pairs as trainers read them (prompt, chosen, rejected), with where each comes from."""
    from tasks.export import export_pairs as export

    counts = export(which.chosen()[0], folder)
    out.say(f"{folder}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))


@grouped
def export_replies(
    which: WhichRun,
    folder: Annotated[Path, typer.Argument(help="A new folder for a Parquet file and what its columns are.")],
) -> None:
    """Every reply to the test exchanges, of rungs, systems and floors, beside the true one and its figures."""
    from tasks.export import export_replies as export

    out.say(f"{folder}: {export(which.chosen()[0], folder)} replies")
