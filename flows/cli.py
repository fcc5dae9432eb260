"""The command line `empamba`: the one file in flows/ that is no flow.

`run` plans first and starts the orchestrator only when something is stale; `status` starts nothing. Every
mistake of the user is one line and exit code 2; a failed stage is exit code 1. Knows nothing of what stages do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from storage.errors import InputError
from storage.fetch.catalogue import SOURCES
from storage.store import StoreError
from tasks.display import candidate_card, status_tree
from tasks.engine.own_server import ServerFailed
from tasks.engine.run import RunRequest, publish_report, stale_plan
from tasks.engine.stopping import Stopped, heeding
from tasks.engine.worker import StageFailed

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
weights_app = typer.Typer(no_args_is_help=True, help="The profile's pretrained weights.")
app.add_typer(weights_app, name="weights")
scorer_app = typer.Typer(no_args_is_help=True, help="The project's own emotion scorer.")
app.add_typer(scorer_app, name="scorer")
compressor_app = typer.Typer(no_args_is_help=True, help="The project's own small compressor.")
app.add_typer(compressor_app, name="compressor")
export_app = typer.Typer(no_args_is_help=True, help="A run's results as datasets of their own.")
app.add_typer(export_app, name="export")
out, err = Console(), Console(stderr=True)

Profile = Annotated[str, typer.Option(help="cpu, paper, tiny, or a TOML file.")]
StoreFolder = Annotated[Path, typer.Option("--store", help="Folder of artefacts and records.")]
Raw = Annotated[Path | None, typer.Option(help="Folder of raw datasets; none: the bundled sample corpus.")]
Until = Annotated[str | None, typer.Option(help="Last stage to run, with all it needs.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="One setting: data.dialogues=40. Repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
Force = Annotated[list[str] | None, typer.Option(help="Run this stage whether stale or not. Repeatable.")]
Rehash = Annotated[bool, typer.Option(help="Read every raw file again instead of trusting its time stamp.")]


def _request(profile, store, raw, until, changes, rehash=False, force=None) -> RunRequest:
    return RunRequest(
        profile=profile,
        store=str(store),
        raw=None if raw is None else str(raw),
        until=until,
        changes=tuple(changes or ()),
        rehash=rehash,
        force=tuple(force or ()),
    )


@app.command()
def run(
    raw: Raw = None,
    until: Until = None,
    changes: Changes = None,
    profile: Profile = "cpu",
    store: StoreFolder = Path("store"),
    rehash: Rehash = False,
    force: Force = None,
) -> None:
    """Do what is stale, with progress; print where the report is."""
    request = _request(profile, store, raw, until, changes, rehash, force)
    plans = stale_plan(request)
    if all(plan.state in ("fresh", "not run") for plan in plans):
        report = publish_report(request, plans)
        out.print(
            "Nothing is stale: no task was run." + (f" Report: {report}" if report else ""), soft_wrap=True
        )
        return
    _quiet_prefect()
    from flows.reproduce import reproduce
    from tasks.engine.orchestration import run_from_shell

    report = run_from_shell(reproduce, request)
    if report is not None:
        out.print(f"Report: {report}", soft_wrap=True)
    else:
        out.print(f"Done as far as {until}; `empamba show {until}` shows its rows.", soft_wrap=True)


def _quiet_prefect() -> None:
    """Defaults for a run without a server; what the user has set stays."""
    for name, value in {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
    }.items():
        os.environ.setdefault(name, value)
    # Says on a busy machine that the last events are still being sent; its name stands outside "prefect".
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)


@app.command()
def status(
    raw: Raw = None,
    until: Until = None,
    changes: Changes = None,
    profile: Profile = "cpu",
    store: StoreFolder = Path("store"),
    rehash: Rehash = False,
    as_json: AsJson = False,
) -> None:
    """What would be done, and why; does nothing."""
    plans = stale_plan(_request(profile, store, raw, until, changes, rehash))
    if as_json:
        print(json.dumps({"stages": [plan.as_dict() for plan in plans]}))
        return
    out.print(status_tree(plans))


@app.command()
def show(
    stage: str,
    rows: Annotated[int, typer.Option(help="How many rows to print.")] = 5,
    rejects: Annotated[
        bool, typer.Option("--rejects", help="Rejected rows instead, with their reasons.")
    ] = False,
    raw: Raw = None,
    changes: Changes = None,
    profile: Profile = "cpu",
    store: StoreFolder = Path("store"),
    as_json: AsJson = False,
) -> None:
    """A stage's rows, counts and rejects, as of its latest run with these settings; candidates as in figure 8.
    Of a stage without a table all its figures."""
    from tasks.show import candidate_cards, describe

    request = _request(profile, store, raw, None, changes)
    cards = candidate_cards(request, rows) if stage == "candidates" and not rejects else None
    if cards is not None and not as_json:
        for card in cards:
            out.print(candidate_card(card))
        return
    found = describe(request, stage, rows, rejects)
    if as_json:
        print(json.dumps({**found.counts, "shown": found.rows if cards is None else cards}, default=str))
        return
    counted = f"{found.counts['rows']} rows, {found.counts['rejects']} rejects"
    table = Table(*found.columns, title=f"{stage}: {'figures' if 'figure' in found.columns else counted}")
    for row in found.rows:
        table.add_row(*(str(row.get(name, "")).replace("[", "\\[") for name in found.columns))
    out.print(table)
    out.print(", ".join(f"{place} {count}" for place, count in found.counts["by"].items()))


@app.command()
def report(
    raw: Raw = None,
    changes: Changes = None,
    profile: Profile = "cpu",
    store: StoreFolder = Path("store"),
    as_json: AsJson = False,
) -> None:
    """The last report: its tables, or its JSON."""
    path = store / "report.json"
    if not path.is_file():
        raise InputError(f"no report in {store}: `empamba run` writes one")
    again = StoreError(f"{path}: damaged; `empamba run` writes it again")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        rows = facts["systems"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise again from error
    if as_json:
        print(json.dumps(facts))
        return
    table = Table(
        "rung",
        "dataset",
        "n",
        "dialogues",
        "BERTScore",
        "EmotionScore",
        "Dist-1",
        title=facts.get("title", "report"),
    )
    try:
        for row in rows:
            figures = [f"{row[name]:.3f}" for name in ("bertscore", "emotionscore", "dist1")]
            table.add_row(row["system"], row["dataset"], str(row["n"]), str(row["dialogues"]), *figures)
    except (ValueError, LookupError, TypeError) as error:
        raise again from error
    out.print(table)
    out.print(f"{store / 'report.html'}", soft_wrap=True)


@app.command()
def verify(
    store: StoreFolder = Path("store"),
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop what is damaged, so that it is made again.")
    ] = False,
) -> None:
    """Check every file of the store: artefacts against their digests, all else against its own check."""
    from tasks.upkeep import check

    found = check(store, repair)
    for finding in found:
        out.print(finding.line, soft_wrap=True, markup=False, highlight=False)
    left = sum(not finding.mended for finding in found)
    mended = len(found) - left
    told = [f"{mended} damaged, dropped: `empamba run` makes them again"] if mended else []
    if left or not mended:
        told.append(f"{left} damaged" if not repair or not left else f"{left} left as they are")
    out.print("; ".join(told), soft_wrap=True)
    raise typer.Exit(1 if left else 0)


@app.command()
def gc(
    store: StoreFolder = Path("store"),
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Forget all but each item's latest record first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop what no record needs, after saying how much; waits for running flows."""
    from tasks.upkeep import collect

    found = collect(store, superseded, dry=True)
    out.print(
        f"{found.before / 1e6:.1f} MB, of which {found.files} files, {(found.before - found.after) / 1e6:.1f} MB, "
        "are needed by no " + ("latest record" if superseded else "record"),
        soft_wrap=True,
    )
    if found.files and (yes or typer.confirm("Drop them?")):
        done = collect(store, superseded)
        out.print(f"{done.before / 1e6:.1f} MB before, {done.after / 1e6:.1f} MB after")


@weights_app.command("list")
def list_weights(profile: Profile = "cpu", changes: Changes = None) -> None:
    """Which weights the profile names, and whether they lie ready."""
    from model.zoo.resolve import is_cached
    from tasks.settings import load_settings, weight_names

    table = Table("role", "name", "ready", box=None, pad_edge=False)
    for role, name in weight_names(load_settings(profile, changes or ())).items():
        table.add_row(role, name, "yes" if is_cached(name) else "no")
    out.print(table)


@weights_app.command("pull")
def pull_weights(profile: Profile = "cpu", changes: Changes = None) -> None:
    """Fetch, verify and convert the profile's weights."""
    from model.zoo.resolve import resolve
    from tasks.settings import load_settings, weight_names

    for role, name in weight_names(load_settings(profile, changes or ())).items():
        out.print(f"{role}: {name} → {resolve(name)}", soft_wrap=True)


@export_app.command("pairs")
def export_pairs(
    folder: Annotated[Path, typer.Argument(help="A new folder for Parquet files and data card.")],
    raw: Raw = None,
    changes: Changes = None,
    profile: Profile = "cpu",
    store: StoreFolder = Path("store"),
) -> None:
    """Preference pairs as trainers read them (prompt, chosen, rejected), with where each comes from."""
    from tasks.export import export_pairs as export

    counts = export(_request(profile, store, raw, None, changes), folder)
    out.print(
        f"{folder}: " + ", ".join(f"{count} {split}" for split, count in counts.items()), soft_wrap=True
    )


@compressor_app.command("pretrain")
def pretrain_compressor(
    folder: Annotated[Path, typer.Argument(help="Where the compressor is written.")],
    texts: Annotated[
        list[Path], typer.Argument(help="GoEmotions' .tsv, Topical-Chat's .json, or .txt by lines.")
    ],
    settings: Annotated[Path | None, typer.Option(help="A JSON file of compressor settings.")] = None,
    llm: Annotated[
        str, typer.Option(help="The frozen LLM: a weight name or folder.")
    ] = "smollm2-135m-instruct",
    start: Annotated[Path | None, typer.Option(help="A compressor's folder to go on from.")] = None,
) -> None:
    """Pretrain a compressor on public text; goes on where it was cut off; prints its held-out figures."""
    _quiet_prefect()
    from flows.pretrain_compressor import pretrain_compressor as flow
    from tasks.engine.orchestration import run_from_shell

    report = run_from_shell(flow, texts, folder, llm, settings, start)
    print(json.dumps({name: report[name] for name in ("heldout_before", "heldout_after", "nats_recovered")}))


@scorer_app.command("train")
def train_scorer(
    train: Annotated[Path, typer.Argument(help="GoEmotions' train.tsv.")],
    dev: Annotated[Path, typer.Argument(help="GoEmotions' dev.tsv; it chooses the epoch.")],
    folder: Annotated[Path, typer.Argument(help="Where the scorer is written.")],
    settings: Annotated[Path | None, typer.Option(help="A JSON file of training settings.")] = None,
) -> None:
    """Train a scorer on GoEmotions; prints its figures on the dev file."""
    _quiet_prefect()
    from flows.train_scorer import train_scorer as flow
    from tasks.engine.orchestration import run_from_shell

    print(json.dumps(run_from_shell(flow, train, dev, folder, settings)))


@scorer_app.command("evaluate")
def evaluate_scorer(
    file: Annotated[Path, typer.Argument(help="A TSV of GoEmotions' form: text, label ids, comment id.")],
    weights: Annotated[str | None, typer.Option(help="Weight name or folder; none: the profile's.")] = None,
    profile: Profile = "cpu",
    as_json: AsJson = False,
) -> None:
    """Macro- and micro-F1 of a scorer over the 28 labels, with the thresholds it was trained with."""
    from tasks.scorer import measure_scorer
    from tasks.settings import load_settings

    found = measure_scorer(file, weights or load_settings(profile).scorer.weights)
    if as_json:
        print(json.dumps(found))
    else:
        out.print(
            "{weights} on {rows} texts: macro-F1 {macro_f1:.3f}, micro-F1 {micro_f1:.3f}".format_map(found)
        )


@app.command()
def sample(folder: Path, seed: int = 0) -> None:
    """Write the bundled sample corpus as raw MultiDialog, MELD and IEMOCAP trees."""
    from storage.sample.layout import write_sample

    for dataset, counts in write_sample(folder, seed).items():
        out.print(f"{dataset}: " + ", ".join(f"{value} {name}" for name, value in counts.items()))


@app.command()
def check(
    path: Annotated[
        Path, typer.Argument(metavar="FILE-OR-FOLDER", help="Own dialogues (.jsonl, .csv), or a raw folder.")
    ],
    changes: Changes = None,
    profile: Profile = "cpu",
    most: Annotated[int, typer.Option(min=1, help="Problems to print.")] = 200,
    as_json: AsJson = False,
) -> None:
    """What a run would read, and every problem of own dialogues, by file and line; exit code 1 if there is any."""
    from storage.readers.check import check as look
    from tasks.settings import load_settings

    found = look(path, load_settings(profile, changes or ()).data)
    problems = [line for one in found for line in one.problems]
    if as_json:
        print(json.dumps({"problems": problems, "datasets": {one.title: one.summary for one in found}}))
    else:
        for line in problems[:most]:
            out.print(line, soft_wrap=True, markup=False, highlight=False)
        if len(problems) > most:
            out.print(f"… and {len(problems) - most} more: --most {len(problems)} prints them all")
        for one in found:
            facts = one.summary
            out.print(
                f"{one.title}: {facts['dialogues']} dialogues, {facts['utterances']} utterances, "
                f"{facts['exchanges']} exchanges, {facts['clips']} clips"
            )
            for split, counts in facts["splits"].items():
                out.print(f"  {split}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
            out.print(
                "  emotions: " + ", ".join(f"{count} {name}" for name, count in facts["emotions"].items())
            )
            out.print(
                f"  no exchanges: {facts['pairs_of_one_speaker']} pairs of one speaker, "
                f"{facts['pairs_across_a_gap']} across a missing turn; rows turned away: {facts['turned_away']}"
            )
            for line in one.told:
                out.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
        out.print(f"{len(problems)} problems")
    if problems:
        sys.exit(1)


@app.command()
def fetch(
    dataset: Annotated[
        str, typer.Argument(help=f"One of {', '.join(sorted(SOURCES))}; iemocap says where to ask.")
    ],
    folder: Annotated[Path, typer.Option("--to", help="The dataset gets a folder of its name in it.")] = Path(
        "raw"
    ),
    only: Annotated[str, typer.Option(help="Only files whose path matches: 'metadata/*'.")] = "*",
    accept: Annotated[bool, typer.Option("--accept-licence", help="Do not ask.")] = False,
    limits: Annotated[
        list[str] | None, typer.Option("--set", help="A limit: fetch.slowest_bytes_s=100. Repeatable.")
    ] = None,
) -> None:
    """Bring a dataset from where its authors publish it; a broken download is gone on from."""
    from fnmatch import fnmatch

    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from storage.fetch.catalogue import source_of
    from storage.fetch.download import fetch as bring
    from tasks.settings import fetch_limits

    source = source_of(dataset)
    bounds = fetch_limits(limits or ())
    out.print(
        f"{source.title}\nlicence: {source.licence}\n{source.licence_url}", soft_wrap=True, highlight=False
    )
    if not accept:
        if not sys.stdin.isatty():
            raise InputError("nobody to ask: read the licence, then say --accept-licence")
        typer.confirm("Do you accept it?", abort=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True) as bars:
        shown: dict = {}

        def progress(name: str, here: int, total: int | None) -> None:
            if name not in shown:
                for old in shown.values():
                    bars.remove_task(old)
                shown.clear()
                shown[name] = bars.add_task(name, total=total)
            bars.update(shown[name], completed=here, total=total)

        target = folder / dataset.lower()
        brought, there = bring(source, target, lambda name: fnmatch(name, only), progress, bounds)
    out.print(
        f"{brought} files brought to {target}, {there} were there. Next: {source.after}", soft_wrap=True
    )


def main() -> None:
    """Entry point: one line and an exit code for every known mistake, a traceback only for a defect.

    0 done, 1 failed or damaged, 2 a mistake of the user's; 128 and a signal's number where one ended it, and as for
    SIGTERM where Prefect cancelled the run.
    """
    with heeding(_last_words) as heed:
        try:
            code = _run_command()
        except Stopped as stopped:
            code = 128 + signal.SIGTERM
            if heed.code is None:
                _last_words(str(stopped))
        except BaseException:
            if heed.code is None:
                raise
        if heed.code is not None:  # whatever came of the command: why it ended, and how to go on
            _last_words(heed.why)
            code = heed.code
        sys.exit(code)


def _run_command() -> int:
    """Run the command of this process's arguments; returns its exit code."""
    try:
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0  # the code of typer.Exit, which typer turns into a result
    except typer.Abort:
        err.print("stopped: the question was not answered")
        return 130
    except InputError as error:
        return _failed(error, 2)
    except StageFailed as error:
        return _failed(error, 2 if error.usage else 1)
    except (StoreError, ServerFailed) as error:
        return _failed(error, 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's usage errors
            return _failed(error.format_message(), 2)
        raise


def _failed(message, code: int) -> int:
    err.print(f"[red]error:[/] {str(message).replace('[', chr(92) + '[')}", soft_wrap=True, highlight=False)
    return code


@cache  # said once, whoever comes first: the command's own end or the end of its time
def _last_words(why: str) -> None:
    command = shlex.join(["empamba", *sys.argv[1:]])
    with contextlib.suppress(OSError):  # a terminal that has hung up
        err.print(f"{why}; `{command}` goes on from here", soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    main()
