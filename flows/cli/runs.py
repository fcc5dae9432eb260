"""Doing what is stale, saying what would be done, and the list of what was: `run`, `status`, `runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import (
    AsJson,
    Force,
    Rehash,
    RunOptions,
    StoreFolder,
    Until,
    WhichRun,
    grouped,
)
from flows.cli.orchestrator import quiet_prefect
from flows.cli.output import err, out
from storage.errors import InputError
from storage.files import DEFAULT_STORE, on_store
from storage.store import Store, StoreError
from tasks.display import Waiting, status_tree
from tasks.engine.planner import StagePlan
from tasks.engine.preflight import check_machine
from tasks.engine.releases import changed_code
from tasks.engine.run import RunRequest, publish_report, stale_plan
from tasks.engine.runs import runs
from tasks.listing import listing, run_rows
from tasks.terminal import json_line


@grouped
def run(options: RunOptions, until: Until = None, rehash: Rehash = False, force: Force = None) -> None:
    """Do what is stale, with progress; print where the report is."""
    request = options.request(until=until, rehash=rehash, force=tuple(force or ()))
    plans = stale_plan(request)
    if all(plan.state in ("fresh", "not run") for plan in plans):
        report = _nothing_stale(request, plans)
        out.say("Nothing is stale: no task was run." + (f" Report: {report}" if report else ""))
        return
    check_machine(plans, request.settings())
    Waiting("starting the orchestrator", after_s=0).start()
    quiet_prefect()
    from flows.reproduce import reproduce
    from tasks.orchestration.server import run_from_shell

    report = run_from_shell(reproduce, request)
    if report is not None:
        out.say(f"Report: {report}")
    else:
        out.say(f"Done as far as {until}; `{request.of_last_run('show', until)}` shows its rows.")


def _nothing_stale(request: RunRequest, plans: list[StagePlan]) -> str | None:
    """The report's path. A read-only store cannot record that it was asked for."""
    try:
        with request.recorded() as note:
            return publish_report(request, plans, note)
    except StoreError:
        page = request.folder / "report.html"
        return str(page.resolve()) if request.until is None and page.is_file() else None


@grouped
def status(which: WhichRun, until: Until = None, rehash: Rehash = False, as_json: AsJson = False) -> None:
    """What would be done, and why; does nothing."""
    try:
        request, _ = which.chosen()
    except InputError:
        if which.run is not None:
            raise
        request = which.request()  # where nothing has run yet: what `empamba run` would do
    plans = stale_plan(request.model_copy(update={"until": until, "rehash": rehash}))
    changed = changed_code(Store(which.store), plans)
    if as_json:
        json_line({"stages": [plan.as_dict() for plan in plans], "changed_code": changed})
        return
    out.print(status_tree(plans))
    if changed:
        stages = ", ".join(f"{stage} ({len(names)})" for stage, names in changed.items())
        out.say(
            f"code that changed since it last ran, with how many of its functions: {stages}; CHANGELOG.md says why"
        )


def list_runs(
    store: StoreFolder = Path(DEFAULT_STORE),
    rows: Annotated[int, typer.Option(min=1, help="How many runs to print.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The store's runs, latest first: when, on what, with which settings, and what became of them."""
    found, unreadable = runs(store)
    if as_json:
        json_line(
            {"runs": [record.model_dump(mode="json") for record in found[:rows]], "unreadable": unreadable}
        )
        return
    for name, fault in unreadable.items():
        err.say(f"{store}/runs/{name}: {fault}")
    if not found:
        out.say(f"No run in {store}: {on_store('run', store)} makes one.")
        return
    out.print(listing(f"{len(found)} runs", *run_rows(found[:rows]), out.width, share=False))
