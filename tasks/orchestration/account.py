"""A run's account in Prefect: first what changed and what will run, last what came of it.

The outermost flow of a run writes both, so that they are the first and the last artifact of what a person has started.
Knows nothing of how stages run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact

from storage.errors import InputError
from storage.store import StoreError
from tasks.against import compared, side_of
from tasks.engine.planner import StagePlan
from tasks.engine.run import Run, RunRequest, stale_plan
from tasks.engine.runs import RunRecord, runs
from tasks.orchestration.artifacts import best_effort
from tasks.orchestration.bounded import first_lines, left_out, link, page, short, table
from tasks.orchestration.names import name_flow_run
from tasks.orchestration.stage_page import rejected_for, rejects, report_line, stage_key
from tasks.report.against import FIGURE_COLUMNS, changed_rows, figure_rows, leading
from tasks.stages.verdicts import verdict_line
from tasks.terminal import clean, seconds_text

FIGURES = 40
"""Figures of the comparison with the last report that the account shows."""
ITEMS, ROWS, REASONS = 20, 100, 60
"""Stale items that the plan shows, of one stage and of all; reasons of rejects that the summary shows."""
LISTED = "`empamba status --json` before a run lists all, each stage's table once it has settled"


@dataclass
class Account:
    """before: the plan at the start. run, report: what the flow has opened and published so far."""

    request: RunRequest
    before: list[StagePlan]
    last_report: RunRecord | None
    run: Run | None = None
    report: str | None = None
    outcome: str = ""

    @property
    def stale(self) -> bool:
        return any(plan.state in ("stale", "unknown") for plan in self.before)


_OPEN: dict[RunRequest, Account] = {}
"""This process's accounts that are being written, by their requests with absolute paths."""


@contextmanager
def accounted(request: RunRequest, flow: str | None = None) -> Iterator[Account]:
    """Within the block the run has an account: its first artifact now, its last at the end, however that comes.

    Within another block of the same request it is that one's, and nothing is written. flow: whose stages alone run.
    """
    placed = request.placed()
    if placed in _OPEN:
        name_flow_run(placed, _OPEN[placed].before)
        yield _OPEN[placed]
        return
    last_report = next((record for record in runs(placed.folder)[0] if record.report), None)
    plans = [plan for plan in stale_plan(request) if flow in (None, plan.stage.flow)]
    account = _OPEN[placed] = Account(placed, plans, last_report)
    name_flow_run(placed, plans)
    with best_effort("run-plan"):
        about = "what changed, and what will run"
        create_markdown_artifact(key="run-plan", markdown=page(plan_lines(account)), description=about)
    get_run_logger().info("%s", _stale_line(account))
    try:
        yield account
        account.outcome = account.outcome or "finished"
    except BaseException as error:
        failed = f"failed: {error}" if isinstance(error, Exception) else "stopped"
        account.outcome = account.outcome or failed
        raise
    finally:
        del _OPEN[placed]
        if account.run is not None:
            with best_effort("run-summary"):
                about = "what was done, reused and rejected"
                create_markdown_artifact(
                    key="run-summary", markdown=page(summary_lines(account)), description=about
                )
            get_run_logger().info("%s", short(clean(account.outcome)))


# First -------------------------------------------------------------------------------------------------


def plan_lines(account: Account) -> list[str]:
    """What changed, and what will run."""
    stale = [plan for plan in account.before if plan.state == "stale"]
    behind = [plan for plan in account.before if plan.state == "unknown"]
    request = account.request
    lines = ["# What changed, and what will run", "", *_asked(request)]
    if not account.stale:
        return [*lines, "Nothing is stale: no task will run."]
    changed = [
        (plan.stage.name, label, "; ".join(first_lines(why, 5)))
        for plan in stale
        for label, why in list(plan.stale.items())[:ITEMS]
    ][:ROWS]
    lines += ["## What changed", "", *table(("stage", "item", "why"), changed)]
    lines += left_out(sum(len(plan.stale) for plan in stale) - len(changed), f"items: {LISTED}")
    counted = [(p.stage.name, f"{len(p.stale):,} of {len(p.items):,}", "now") for p in stale]
    waiting = [(p.stage.name, "", p.reason) for p in behind]
    lines += ["## What will run", "", *table(("stage", "items", "when"), counted + waiting)]
    fresh = sum(plan.state == "fresh" for plan in account.before)
    left = [f"- {p.stage.name}: {p.reason}" for p in account.before if p.state == "not run"]
    lines += [f"Stages that are fresh, and reused: {fresh}.", ""]
    return [*lines, *(["Left out by the settings:", "", *left, ""] if left else []), *_behind(account.before)]


def _stale_line(account: Account) -> str:
    """What changed, as a line of the flow's log."""
    stale = [f"{p.stage.name} ({len(p.stale)} of {len(p.items)} items)" for p in account.before if p.stale]
    behind = sum(plan.state == "unknown" for plan in account.before)
    return (
        f"stale: {', '.join(first_lines(stale))}; {behind} stages wait for them"
        if stale
        else "nothing is stale"
    )


def _asked(request: RunRequest) -> list[str]:
    data = request.raw or "the bundled sample corpus"
    changes = ", ".join(request.changes) or "none"
    facts = {"data": data, "profile": request.profile, "settings changed": changes, "store": request.store}
    return [*(f"- {name}: {clean(value)}" for name, value in facts.items()), ""]


# Last --------------------------------------------------------------------------------------------------


def summary_lines(account: Account) -> list[str]:
    """What was done, reused and rejected, which models are behind their data, and how figures moved."""
    run = account.run
    assert run is not None
    settled = {plan.stage.name: plan for plan in run.settled()}
    lines = [f"# {clean(account.outcome).capitalize()}", "", *_asked(account.request)]
    rows = []
    for plan in account.before:
        now = settled.get(plan.stage.name)
        rows.append((plan.stage.name, *_done(now, run.display.seconds.get(plan.stage.name))))
    columns = ("stage", "state", "ran", "reused", "rows", "rejected", "took", "why")
    lines += ["## What was done", "", *table(columns, rows)]
    tables = [link(stage_key(name), name) for name in settled]
    lines += [f"Every item of a stage, and why it ran: {', '.join(tables)}.", ""] if tables else []
    lines += _verdicts(run, settled)
    lines += _rejected(run, settled)
    lines += _behind(list(settled.values()))
    if account.report:
        report = report_line(Path(account.report).parent, "--run", run.note.record.id)
        lines += [report, "", *_moved(account, run)]
    return lines


def _done(plan: StagePlan | None, seconds: float | None) -> tuple[object, ...]:
    """A row of the summary, without the stage's name. None: the run did not come to it."""
    if plan is None:
        return ("not reached", "", "", "", "", "", "")
    if plan.state == "not run":
        return ("not run", "", "", "", "", "", plan.reason)
    ran, refs = len(plan.stale), [ref for refs in plan.outputs.values() for ref in refs]
    why = list(dict.fromkeys(line for lines in plan.stale.values() for line in lines))
    return (
        "ran" if ran else "reused",
        f"{ran:,}",
        f"{len(plan.items) - ran:,}",
        f"{sum(ref.rows for ref in refs):,}",
        f"{rejects(refs):,}",
        seconds_text(seconds) if ran and seconds else "",
        "; ".join(first_lines([clean(line) for line in why], 3)),
    )


def _verdicts(run: Run, settled: dict[str, StagePlan]) -> list[str]:
    """What each stage came to that ran."""
    store, intervals = run.session.store, run.session.settings.metrics.intervals
    found = []
    for name, plan in settled.items():
        lines = (
            verdict_line(store, refs, intervals)
            for label, refs in plan.outputs.items()
            if label in plan.stale
        )
        line = next((line for line in lines if line), None)
        if line:
            found.append(f"- {name}: {clean(line)}")
    return ["## Verdicts", "", *found, ""] if found else []


def _rejected(run: Run, settled: dict[str, StagePlan]) -> list[str]:
    rows = []
    for name, plan in settled.items():
        refs = [ref for refs in plan.outputs.values() for ref in refs]
        rows += [(name, why, f"{n:,}") for why, n in rejected_for(run.session.store, refs).most_common()]
    if not rows:
        return []
    shown = table(("stage", "reason", "rows"), rows[:REASONS])
    return ["## Rejected", "", *shown, *left_out(len(rows) - REASONS, "reasons, in the stages' pages")]


def _behind(plans: list[StagePlan]) -> list[str]:
    """Models that were left as they are although their data changed, by the policy of `retrain`."""
    found = [
        f"- {plan.stage.name}: {clean(line)}"
        for plan in plans
        for line in dict.fromkeys(plan.behind.values())
    ]
    return ["## Models behind their data", "", *found, ""] if found else []


def _moved(account: Account, run: Run) -> list[str]:
    """How the figures moved against the last report of the store."""
    then, now = account.last_report, run.note.record
    if then is None:
        return ["## Against the last report", "", "This is the store's first.", ""]
    title = [f"## Against the last report (run {then.id})", ""]
    if then.report == now.report:
        return [*title, "The report is the same, byte for byte.", ""]
    try:
        root = account.request.folder
        comparison = compared(root, then.id, side_of(root, now))
    except (InputError, StoreError) as error:
        return [*title, f"Not compared: {clean(str(error))}", ""]
    first, rest = leading(comparison["figures"])
    rows = [[row[column] for column in FIGURE_COLUMNS] for row in figure_rows(first[:FIGURES], False)]
    changed = [list(row.values()) for row in changed_rows(comparison)]
    lines = [*title, *table(("what", "which", "then", "now"), changed[:FIGURES])]
    lines += table((*FIGURE_COLUMNS[:-1], "verdict"), rows) or ["No leading figure differs.", ""]
    more = len(rest) + max(0, len(first) - FIGURES)
    counted = f"{comparison['equal']} figures are the same in both; {more} more that differ: "
    return [*lines, f"{counted}`{account.request.of_last_run('report', '--against', then.id)}`", ""]
