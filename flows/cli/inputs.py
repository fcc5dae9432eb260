"""What a run reads: `check` data before a run, `fetch` a dataset, write the bundled `sample` corpus."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, Changes, Profile
from flows.cli.output import confirmed, err, out
from storage.errors import InputError
from storage.fetch.catalogue import SOURCES
from tasks.display import Waiting
from tasks.terminal import json_line

if TYPE_CHECKING:
    from storage.readers.check import Checked


def sample(folder: Path, seed: int = 0) -> None:
    """Write the bundled sample corpus as raw MultiDialog, MELD and IEMOCAP trees."""
    from storage.sample.layout import write_sample

    with Waiting("filming voices and faces", "utterances") as waiting:
        written = write_sample(folder, seed, progress=waiting.progress)
    for dataset, counts in written.items():
        out.say(f"{dataset}: {_counted(counts)}")


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
        _print_problems(problems, most)
        for one in found:
            _print_dataset(one)
        out.say(f"{len(problems)} problems")
    if problems:
        sys.exit(1)


def _print_problems(problems: list[str], most: int) -> None:
    for line in problems[:most]:
        out.say(line)
    if len(problems) > most:
        out.say(f"… and {len(problems) - most} more: --most {len(problems)} prints them all")


def _print_dataset(found: Checked) -> None:
    """What a run would read of one dataset, split by split."""
    facts = found.summary
    out.say(
        f"{found.title}: {facts['dialogues']} dialogues, {facts['utterances']} utterances, "
        f"{facts['exchanges']} exchanges, {facts['clips']} clips"
    )
    for split, counts in facts["splits"].items():
        out.say(f"  {split}: {_counted(counts)}")
    out.say(f"  emotions: {_counted(facts['emotions'])}")
    out.say(
        f"  no exchanges: {facts['pairs_of_one_speaker']} pairs of one speaker, "
        f"{facts['pairs_across_a_gap']} across a missing turn; rows turned away: {facts['turned_away']}"
    )
    for line in found.notes:
        out.say(f"  {line}")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


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
    """Bring a dataset from where its authors publish it; a broken download is resumed."""
    from fnmatch import fnmatch

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
        if not confirmed("Do you accept it?"):
            out.say("nothing was fetched: the licence was not accepted")
            raise typer.Exit(1)
    target = folder / dataset.lower()
    with _download_bar() as progress:
        brought, there = bring(source, target, lambda name: fnmatch(name, only), progress, bounds)
    out.say(f"{brought} files brought to {target}, {there} were there. Next: {source.after}")


@contextmanager
def _download_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar of the file that is being brought. Yields what to call: its name, bytes here, bytes in all."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bars:
        shown: dict[str, TaskID] = {}

        def progress(name: str, here: int, total: int | None) -> None:
            if name not in shown:
                for old in shown.values():
                    bars.remove_task(old)
                shown.clear()
                shown[name] = bars.add_task(name, total=total)
            bars.update(shown[name], completed=here, total=total)

        yield progress
