"""Options that commands share, and the one place that decides which run they mean: raw data, settings, profile,
store.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import err
from storage.errors import InputError
from storage.files import DEFAULT_STORE, store_name
from storage.remote.address import is_address, working_folder
from storage.remote.opening import pull_first
from tasks.engine.run import RunRequest
from tasks.engine.runs import RunRecord, run_of, runs
from tasks.settings import profile_names

_PROFILES = f"{', '.join(profile_names())}, or a TOML file"
Profile = Annotated[str, typer.Option(help=f"{_PROFILES}.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="One setting: data.dialogues=40. Repeatable.")
]
Until = Annotated[str | None, typer.Option(help="Last stage to run, with all it needs.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")]
Force = Annotated[list[str] | None, typer.Option(help="Run this stage whether stale or not. Repeatable.")]
Rehash = Annotated[bool, typer.Option(help="Read every raw file again instead of trusting its time stamp.")]


def _store_folder(store: str | Path) -> Path:
    """The folder, or this machine's working folder of a bucket, with what others have put there taken over."""
    folder = working_folder(store)
    if is_address(store):
        pull_first(folder)
    elif folder.is_file():
        raise typer.BadParameter(f"Directory '{store}' is a file.")
    return folder


StoreFolder = Annotated[
    Path,
    typer.Option(
        "--store",
        parser=_store_folder,
        metavar="DIRECTORY",
        help="Folder of artefacts and records, or s3://bucket/prefix.",
    ),
]


@dataclass(frozen=True)
class RunOptions:
    """The options that say which data, with which settings, into which store."""

    raw: Annotated[
        Path | None, typer.Option(help="Folder of raw datasets; none: the bundled sample corpus.")
    ] = None
    profile: Annotated[str | None, typer.Option(help=f"{_PROFILES}; cpu unless told.")] = None
    changes: Changes = None
    store: StoreFolder = Path(DEFAULT_STORE)

    def request(self, **more) -> RunRequest:
        """The run that these options alone ask for."""
        return RunRequest(
            profile=self.profile or RunRequest().profile,
            raw=None if self.raw is None else str(self.raw),
            changes=tuple(self.changes or ()),
            store=store_name(self.store),
            **more,
        )


@dataclass(frozen=True)
class WhichRun(RunOptions):
    """The options that choose a run: the store's last, one of its runs, or that of --raw, --profile and --set."""

    run: Annotated[
        str | None,
        typer.Option(
            help="A run of the store, by its id; unless told, or --raw, --profile or --set, the last."
        ),
    ] = None

    def chosen(self, with_report: bool = False) -> tuple[RunRequest, RunRecord | None]:
        """The run's data and settings, and its record where it was chosen as a run of the store.

        with_report: the last run is the last that came to a report, where there is one. InputError where the store has no such
        run.
        """
        has_settings = self.raw is not None or self.profile is not None or bool(self.changes)
        if has_settings and self.run is not None:
            raise InputError(
                "--run means a run's own data and settings: leave out --raw, --profile and --set"
            )
        if has_settings:
            return self.request(), None
        record = run_of(self.store, self.run)
        if with_report and self.run is None and record.report is None:
            # Parts of the road are runs too, and so is what failed.
            reported = next((one for one in runs(self.store)[0] if one.report), None)
            if reported is not None:
                err.say(f"run {record.id} came to no report; this is the last one that did", style="dim")
                record = reported
        request = RunRequest.of_run(record, store_name(self.store))
        err.say(f"run {record.id}: {request.command('run')}", style="dim")
        return request, record


def grouped(command: Callable) -> Callable:
    """Lets a command take options in groups: of a parameter that is a dataclass the fields are options."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    groups = {p.name: p.annotation for p in parameters if is_dataclass(p.annotation)}
    options = [p for p in parameters if p.name not in groups]
    for group in groups.values():
        options += inspect.signature(group, eval_str=True).parameters.values()

    @wraps(command)
    def called(**given):
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        return command(**given)

    called.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in options])
    called.__annotations__ = {p.name: p.annotation for p in options}
    return called
