"""The command line `empamba`: the one file in flows/ that is no flow.

`run` plans first and starts the orchestrator only when something is stale; `status` starts nothing. Every
mistake of the user is one line and exit code 2; a failed stage is exit code 1. Knows nothing of what stages do.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from model.zoo.errors import ZooError
from storage.errors import InputError
from storage.fetch.catalogue import SOURCES
from storage.files import DEFAULT_STORE, on_store, shell_word
from storage.store import Store, StoreError
from tasks.display import Waiting, status_tree
from tasks.engine.own_server import ServerFailed
from tasks.engine.run import RunRequest, publish_report, read_report, stale_plan
from tasks.engine.runs import RunRecord, run_of, runs
from tasks.engine.stopping import Stopped, heeding
from tasks.engine.worker import StageFailed
from tasks.listing import candidate_card, listing, run_rows, story
from tasks.terminal import Terminal, clean, json_line, size_text

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
weights_app = typer.Typer(no_args_is_help=True, help="The profile's pretrained weights.")
app.add_typer(weights_app, name="weights")
scorer_app = typer.Typer(no_args_is_help=True, help="The project's own emotion scorer.")
app.add_typer(scorer_app, name="scorer")
compressor_app = typer.Typer(no_args_is_help=True, help="The project's own small compressor.")
app.add_typer(compressor_app, name="compressor")
export_app = typer.Typer(no_args_is_help=True, help="A run's results as datasets of their own.")
app.add_typer(export_app, name="export")
out, err = Terminal(), Terminal(stderr=True)
WIDE = 120
"""Characters of a terminal that has room for intervals beside figures."""

Profile = Annotated[str, typer.Option(help="cpu, paper, tiny, or a TOML file.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="One setting: data.dialogues=40. Repeatable.")
]
Until = Annotated[str | None, typer.Option(help="Last stage to run, with all it needs.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
Force = Annotated[list[str] | None, typer.Option(help="Run this stage whether stale or not. Repeatable.")]
Rehash = Annotated[bool, typer.Option(help="Read every raw file again instead of trusting its time stamp.")]
StoreFolder = Annotated[
    Path, typer.Option("--store", file_okay=False, help="Folder of artefacts and records.")
]


@dataclass(frozen=True)
class Asked:
    """The options that say which data, with which settings, into which store."""

    raw: Annotated[
        Path | None, typer.Option(help="Folder of raw datasets; none: the bundled sample corpus.")
    ] = None
    profile: Annotated[str | None, typer.Option(help="cpu (unless told), paper, tiny, or a TOML file.")] = (
        None
    )
    changes: Changes = None
    store: StoreFolder = Path(DEFAULT_STORE)

    def request(self, **more) -> RunRequest:
        """What is asked for, by these options alone."""
        return RunRequest(
            profile=self.profile or RunRequest().profile,
            raw=None if self.raw is None else str(self.raw),
            changes=tuple(self.changes or ()),
            store=str(self.store),
            **more,
        )


@dataclass(frozen=True)
class Meant(Asked):
    """The options that say which run is meant: the store's last, one of its runs, or that of --raw, --profile and --set."""

    run: Annotated[
        str | None,
        typer.Option(
            help="A run of the store, by its id; unless told, or --raw, --profile or --set, the last."
        ),
    ] = None

    def found(self) -> tuple[RunRequest, RunRecord | None]:
        """The run's data and settings, and its record, if it is meant by that. InputError where there is none."""
        told = self.raw is not None or self.profile is not None or bool(self.changes)
        if told and self.run is not None:
            raise InputError(
                "--run means a run's own data and settings: leave out --raw, --profile and --set"
            )
        if told:
            return self.request(), None
        record = run_of(self.store, self.run)
        request = RunRequest.of_run(record, str(self.store))
        err.say(f"run {record.id}: {request.command('run')}", style="dim")
        return request, record


def grouped(command: Callable) -> Callable:
    """Lets a command take options in groups: of a parameter that is a dataclass the fields are options."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    groups = {p.name: p.annotation for p in own if is_dataclass(p.annotation)}
    options = [p for p in own if p.name not in groups]
    options += [
        p for kind in groups.values() for p in inspect.signature(kind, eval_str=True).parameters.values()
    ]

    @wraps(command)
    def called(**given):
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        return command(**given)

    called.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in options])
    called.__annotations__ = {p.name: p.annotation for p in options}
    return called


@app.command()
@grouped
def run(asked: Asked, until: Until = None, rehash: Rehash = False, force: Force = None) -> None:
    """Do what is stale, with progress; print where the report is."""
    request = asked.request(until=until, rehash=rehash, force=tuple(force or ()))
    plans = stale_plan(request)
    if all(plan.state in ("fresh", "not run") for plan in plans):
        report = _nothing_stale(request, plans)
        out.say("Nothing is stale: no task was run." + (f" Report: {report}" if report else ""))
        return
    Waiting("starting the orchestrator", after_s=0).start()
    _quiet_prefect()
    from flows.reproduce import reproduce
    from tasks.engine.orchestration import run_from_shell

    report = run_from_shell(reproduce, request)
    if report is not None:
        out.say(f"Report: {report}")
    else:
        out.say(f"Done as far as {until}; `{request.of_last_run('show', until)}` shows its rows.")


def _nothing_stale(request: RunRequest, plans: list) -> str | None:
    """The report's path. Of a read-only store it can be told, but not that this was asked for."""
    try:
        with request.noted() as note:
            return publish_report(request, plans, note)
    except StoreError:
        page = Path(request.store) / "report.html"
        return str(page.resolve()) if request.until is None and page.is_file() else None


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
@grouped
def status(meant: Meant, until: Until = None, rehash: Rehash = False, as_json: AsJson = False) -> None:
    """What would be done, and why; does nothing."""
    try:
        request, _ = meant.found()
    except InputError:
        if meant.run is not None:
            raise
        request = meant.request()  # where nothing has run yet: what `empamba run` would do
    plans = stale_plan(request.model_copy(update={"until": until, "rehash": rehash}))
    if as_json:
        json_line({"stages": [plan.as_dict() for plan in plans]})
        return
    out.print(status_tree(plans))


@app.command()
@grouped
def show(
    meant: Meant,
    stage: Annotated[str, typer.Argument(help="A stage, or a part of one: pairs, pairs.quality.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows to print.")] = 5,
    rejects: Annotated[
        bool, typer.Option("--rejects", help="Rejected rows instead, with their reasons.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """A stage's rows, counts and rejects; of a trained stage what it learned; candidates as in figure 8."""
    from tasks.show import candidate_cards, describe

    request, _ = meant.found()
    cards = candidate_cards(request, rows) if stage == "candidates" and not rejects else None
    if cards is not None and not as_json:
        for card in cards:
            out.print(candidate_card(card, out.width))
        return
    found = describe(request, stage, rows, rejects)
    if as_json:
        shown = next(rows for rows in (cards, found.systems, found.rows) if rows is not None)
        json_line({**found.counts, "shown": shown})
        return
    for told in found.stories:
        out.print(story(told, out.width))
    if found.systems is not None:
        out.print(_systems(stage, found.systems))
    elif not found.stories:
        counted = f"{found.counts['rows']} rows, {found.counts['rejects']} rejects"
        title = f"{stage}: {'figures' if 'figure' in found.columns else counted}"
        out.print(listing(title, found.columns, found.rows, out.width))
    for line in (*found.lines, ", ".join(f"{place} {n}" for place, n in found.counts["by"].items())):
        if line:
            out.print(Text(clean(line)))


@app.command("runs")
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


@app.command()
@grouped
def report(meant: Meant, as_json: AsJson = False) -> None:
    """A run's report: its tables, or its JSON."""
    from tasks.engine.run import published

    request, record = meant.found()
    digest = record.report if record is not None else _report_of(request)
    if digest is None:
        why = "no report with these settings" if record is None else f"run {record.id} came to no report"
        other = next((r.id for r in runs(meant.store)[0] if r.report), None)
        hint = "" if other is None else f"; --run {other} has one"
        raise InputError(f"{why}: `{request.command('run')}` writes one{hint}")
    facts = read_report(request, digest)
    if as_json:
        json_line(facts)
        return
    damaged = StoreError(
        f"{meant.store / 'report.json'}: damaged; `{request.command('run')}` writes it again"
    )
    try:
        table = _systems(facts.get("title", "report"), facts["systems"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise damaged from error
    out.print(table)
    if published(Store(meant.store)) == digest:
        out.say(str(meant.store / "report.html"))
    else:
        out.say(
            f"{meant.store / 'report.html'} is another run's; `{request.command('run')}` publishes this one"
        )


def _systems(title: str, systems: list[dict]) -> RenderableType:
    """Measured systems, with intervals where the terminal has room for them."""
    from tasks.show import system_rows

    return listing(title, *system_rows(systems, out.width >= WIDE), out.width, share=False)


def _report_of(request: RunRequest) -> str | None:
    """The digest of the report that lies there with these settings and data, if it is fresh."""
    plan = next(plan for plan in stale_plan(request) if plan.stage.name == "report")
    return next((ref.digest for ref in plan.outputs.get("all", ()) if ref.name == "report.json"), None)


@app.command()
def verify(
    store: StoreFolder = Path(DEFAULT_STORE),
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop what is damaged, so that it is made again.")
    ] = False,
) -> None:
    """Check every file of the store: artefacts against their digests, all else against its own check."""
    from tasks.upkeep import check

    found = check(store, repair)
    for finding in found:
        out.say(finding.line)
    left = sum(not finding.mended for finding in found)
    mended = len(found) - left
    told = [f"{mended} damaged, dropped: {_last_run(store)} makes them again"] if mended else []
    if left or not mended:
        told.append(f"{left} damaged" if not repair or not left else f"{left} left as they are")
    out.say("; ".join(told))
    raise typer.Exit(1 if left else 0)


def _last_run(store: Path) -> str:
    """The command that does the store's last run again; a run of the defaults where none is on record."""
    found, _ = runs(store)
    return f"`{RunRequest.of_run(found[0], str(store)).command('run')}`" if found else on_store("run", store)


@app.command()
def gc(
    store: StoreFolder = Path(DEFAULT_STORE),
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Forget all but each item's latest record first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop what no record needs, after saying how much; waits for running flows."""
    from tasks.upkeep import collect

    found = collect(store, superseded, dry=True)
    out.say(
        f"{found.before / 1e6:.1f} MB, of which {found.files} files, {(found.before - found.after) / 1e6:.1f} MB, "
        "are needed by no " + ("latest record" if superseded else "record")
    )
    if found.files and (yes or typer.confirm("Drop them?")):
        done = collect(store, superseded)
        out.say(f"{done.before / 1e6:.1f} MB before, {done.after / 1e6:.1f} MB after")


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
        out.say(f"{role}: {name} → {resolve(name)}")


@export_app.command("pairs")
@grouped
def export_pairs(
    meant: Meant,
    folder: Annotated[Path, typer.Argument(help="A new folder for Parquet files and data card.")],
) -> None:
    """Preference pairs as trainers read them (prompt, chosen, rejected), with where each comes from."""
    from tasks.export import export_pairs as export

    counts = export(meant.found()[0], folder)
    out.say(f"{folder}: " + ", ".join(f"{count} {split}" for split, count in counts.items()))


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
    json_line({name: report[name] for name in ("heldout_before", "heldout_after", "nats_recovered")})


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

    json_line(run_from_shell(flow, train, dev, folder, settings))


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
        json_line(found)
    else:
        out.say(
            "{weights} on {rows} texts: macro-F1 {macro_f1:.3f}, micro-F1 {micro_f1:.3f}".format_map(found)
        )


@app.command()
def sample(folder: Path, seed: int = 0) -> None:
    """Write the bundled sample corpus as raw MultiDialog, MELD and IEMOCAP trees."""
    from storage.sample.layout import write_sample

    with Waiting("writing voices and faces"):
        written = write_sample(folder, seed)
    for dataset, counts in written.items():
        out.say(f"{dataset}: " + ", ".join(f"{value} {name}" for name, value in counts.items()))


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
        json_line({"problems": problems, "datasets": {one.title: one.summary for one in found}})
    else:
        for line in problems[:most]:
            out.say(line)
        if len(problems) > most:
            out.say(f"… and {len(problems) - most} more: --most {len(problems)} prints them all")
        for one in found:
            facts = one.summary
            out.say(
                f"{one.title}: {facts['dialogues']} dialogues, {facts['utterances']} utterances, "
                f"{facts['exchanges']} exchanges, {facts['clips']} clips"
            )
            for split, counts in facts["splits"].items():
                out.say(f"  {split}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
            out.say(
                "  emotions: " + ", ".join(f"{count} {name}" for name, count in facts["emotions"].items())
            )
            out.say(
                f"  no exchanges: {facts['pairs_of_one_speaker']} pairs of one speaker, "
                f"{facts['pairs_across_a_gap']} across a missing turn; rows turned away: {facts['turned_away']}"
            )
            for line in one.told:
                out.say(f"  {line}")
        out.say(f"{len(problems)} problems")
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
    for line in (source.title, f"licence: {source.licence}", source.licence_url):
        out.say(line)
    if not accept:
        if not sys.stdin.isatty():
            raise InputError("nobody to ask: read the licence, then say --accept-licence")
        if not _confirmed("Do you accept it?"):
            out.say("nothing was fetched: the licence was not accepted")
            raise typer.Exit(1)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
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
    out.say(f"{brought} files brought to {target}, {there} were there. Next: {source.after}")


def _confirmed(question: str) -> bool:
    """Whether it was answered with yes; an end of the input or Ctrl-C is a no."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        out.print()
        return False


@app.command()
def caches(
    clear: Annotated[bool, typer.Option("--clear", help="Remove them, after asking for each.")] = False,
) -> None:
    """What lies outside the store (weights, what was learned of files, Prefect's records), where, and how large it is."""
    from tasks.caches import clear as remove
    from tasks.caches import known_caches

    for known in known_caches():
        size = known.size()
        out.say(f"{known.what}: {known.folder}, " + (size_text(size) if size else "nothing"))
        if clear and size:
            if _confirmed(known.question):
                out.say(f"removed: {remove(known)} entries")
            else:
                out.say("kept")


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
    except Stopped:
        raise
    except ZooError as error:  # a name that is none, or weights that cannot be fetched: as with `fetch`
        return _failed(error, 2)
    except Exception as error:
        if hasattr(
            error, "format_message"
        ):  # click's usage errors; one without a message has printed the help
            return _failed(error.format_message(), 2) if error.format_message().strip() else 2
        Waiting.end()
        err.say_traceback(error)
        return 1


def _failed(message, code: int) -> int:
    Waiting.end()
    err.print(Text.assemble(("error:", "red"), f" {clean(str(message))}"), soft_wrap=True)
    return code


@cache  # said once, whoever comes first: the command's own end or the end of its time
def _last_words(why: str) -> None:
    Waiting.end()
    command = " ".join(map(shell_word, ["empamba", *sys.argv[1:]]))
    with contextlib.suppress(OSError):  # a terminal that has hung up
        err.say(f"{why}; `{command}` goes on from here")


if __name__ == "__main__":
    main()
