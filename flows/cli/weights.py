"""Pretrained weights, and the two parts that the project trains and ships: `weights`, `scorer`, `compressor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flows.cli.options import AsJson, Changes, Profile
from flows.cli.orchestrator import quiet_prefect
from flows.cli.output import out
from tasks.terminal import json_line


def list_weights(profile: Profile = "cpu", changes: Changes = None) -> None:
    """Which weights the profile names, whether they lie ready, and the hub's commit that was fetched."""
    from model.zoo.resolve import commit_of, is_cached
    from tasks.settings import load_settings, weight_names

    table = Table("role", "name", "ready", "commit", box=None, pad_edge=False)
    for role, name in weight_names(load_settings(profile, changes or ())).items():
        table.add_row(role, name, "yes" if is_cached(name) else "no", (commit_of(name) or "")[:12])
    out.print(table)


def pull_weights(profile: Profile = "cpu", changes: Changes = None) -> None:
    """Fetch, verify and convert the profile's weights."""
    from model.zoo.hub import check_hub, fetched, must_be_fetched
    from model.zoo.resolve import recorded_commit
    from tasks.settings import load_settings, weight_names

    settings = load_settings(profile, changes or ())
    named = weight_names(settings)
    for name in filter(
        must_be_fetched, named.values()
    ):  # a refusal is said before gigabytes of others are fetched
        check_hub(name, settings.run.offline)
    for role, name in named.items():
        folder = fetched(name)
        commit = recorded_commit(folder)
        out.say(f"{role}: {name} → {folder}{f' (commit {commit})' if commit else ''}")


def train_scorer(
    train: Annotated[Path, typer.Argument(help="GoEmotions' train.tsv.")],
    dev: Annotated[Path, typer.Argument(help="GoEmotions' dev.tsv; it chooses the epoch.")],
    folder: Annotated[Path, typer.Argument(help="Where the scorer is written.")],
    settings: Annotated[Path | None, typer.Option(help="A JSON file of training settings.")] = None,
) -> None:
    """Train a scorer on GoEmotions; prints its figures on the dev file."""
    quiet_prefect()
    from flows.train_scorer import train_scorer as flow
    from tasks.orchestration.server import run_from_shell

    json_line(run_from_shell(flow, train, dev, folder, settings))


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
    quiet_prefect()
    from flows.pretrain_compressor import pretrain_compressor as flow
    from tasks.orchestration.server import run_from_shell

    report = run_from_shell(flow, texts, folder, llm, settings, start)
    json_line({name: report[name] for name in ("heldout_before", "heldout_after", "nats_recovered")})
