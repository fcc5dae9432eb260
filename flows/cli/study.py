"""A study in which people judge replies (section 5.2): `study make`, `serve`, `status`, `release`, `score`, `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import AsJson, WhichRun, grouped
from flows.cli.output import err, out
from storage.errors import InputError
from tasks.listing import listing
from tasks.study.power import Power
from tasks.terminal import json_line

StudyFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The study's folder.")]
PORT = 8766
POWER = Power()


@grouped
def make(
    which: WhichRun,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the study.")],
    systems: Annotated[
        str, typer.Option(help="Up to six: rungs, system-NAME, human (the true reply); none: the ladder's.")
    ] = "",
    pairs: Annotated[
        bool,
        typer.Option("--pairs", help="The replies of train's and dev's preference pairs, to train EPO by."),
    ] = False,
    participants: Annotated[int, typer.Option(min=1, help="How many people.")] = 10,
    each: Annotated[int, typer.Option(min=1, help="Conversations that each judges.")] = 10,
    conversations: Annotated[
        int | None, typer.Option(min=1, help="Different ones in all; none: the same for everybody.")
    ] = None,
    checks: Annotated[int, typer.Option(min=0, help="Attention checks of each participant.")] = 0,
    prolific: Annotated[bool, typer.Option("--prolific", help="Prolific sends the participants.")] = False,
    completion_code: Annotated[str | None, typer.Option(help="Shown at the end; none: one is drawn.")] = None,
    completion_url: Annotated[str | None, typer.Option(help="Where the last page leads.")] = None,
    return_after: Annotated[
        float,
        typer.Option(help="Hours without an answer after which a Prolific participant's place is free."),
    ] = 24.0,
    difference: Annotated[
        float, typer.Option(help="Between two systems' means; how many people it needs is said.")
    ] = POWER.difference,
    sd: Annotated[
        float,
        typer.Option(
            show_default=f"{POWER.sd:.2f}", help="Of one judgement; unless told, all points are as frequent."
        ),
    ] = POWER.sd,
    correlation: Annotated[
        float, typer.Option(help="Of one person's judgements of two replies to a conversation.")
    ] = POWER.correlation,
    text_only: Annotated[bool, typer.Option("--text-only", help="No clips.")] = False,
    seed: Annotated[int, typer.Option(help="Draws conversations, who judges which, and the order.")] = 0,
) -> None:
    """Sample conversations of a run and the replies to judge, and say what so many people can show."""
    from pydantic import ValidationError

    from tasks.display import Waiting
    from tasks.study.make import StudySettings, make_study

    request, record = which.chosen()
    try:
        settings = StudySettings(
            participants=participants,
            each=each,
            conversations=conversations,
            systems=tuple(name.strip() for name in systems.split(",") if name.strip()),
            pairs=pairs,
            checks=checks,
            media=not text_only,
            prolific=prolific,
            return_after_h=return_after,
            completion_code=completion_code,
            completion_url=completion_url,
            power=Power(difference=difference, sd=sd, correlation=correlation),
            seed=seed,
        )
    except ValidationError as error:
        found = error.errors()[0]
        raise InputError(f"--{str(found['loc'][0]).replace('_', '-')}: {found['msg']}") from None
    with Waiting("making clips", "clips") as waiting:
        study = make_study(request, folder, settings, record.id if record else "", waiting.progress)
    turns = sum(len(item.turns) for item in study.items)
    out.say(
        f"{folder}: {len(study.items)} conversations, {len(study.systems)} systems: {', '.join(study.systems)}"
    )
    out.say(study.power.said(len(study.places), study.each))
    out.say(f"{turns - study.without_clip} of {turns} utterances have a clip")
    for one in study.clips_left_out:
        out.say(f"clip {one.turn} of {one.item} is not shown: {one.reason}")
    out.say(f"next: empamba study serve {folder}")


def serve(
    folder: StudyFolder,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's only if asked.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = PORT,
) -> None:
    """Show the study to its participants until Ctrl-C; every click is on the disk before it is answered."""
    from tasks.local_server import is_local
    from tasks.study.serve import serve as serve_study
    from tasks.study.study import read_study

    study = read_study(folder)

    def told(address: str) -> None:
        if study.prolific:
            entry = "?PROLIFIC_PID={{%PROLIFIC_PID%}}&STUDY_ID={{%STUDY_ID%}}&SESSION_ID={{%SESSION_ID%}}"
            out.say(f"{address}/  (on Prolific: {address}/{entry})")
        else:
            out.say(f"{address}/  (links: empamba study status {folder} --url {address})")
        if not is_local(host):
            err.say("listening beyond this machine, without encryption: put a server with TLS before it")

    serve_study(folder, host, port, told)


def status(
    folder: StudyFolder,
    url: Annotated[str, typer.Option(help="Address that participants reach; with it links are shown.")] = "",
    as_json: AsJson = False,
) -> None:
    """Who is where: places, links, how much is judged, who is done."""
    from tasks.study.status import place_rows

    columns, rows = place_rows(folder, url)
    if as_json:
        json_line(rows)
    else:
        out.print(listing(f"study {folder}", columns, rows, out.width, share=False))


def release(
    folder: StudyFolder,
    who: Annotated[str, typer.Argument(help="A Prolific id, or a place's number.")],
    url: Annotated[str, typer.Option(help="As with `status`.")] = "",
) -> None:
    """Give back the place of somebody who returned it; what they judged is kept and does not count."""
    from tasks.study.status import give_back

    out.say(give_back(folder, who, url))


def score(
    folder: StudyFolder,
    keep_inattentive: Annotated[
        bool, typer.Option("--keep-inattentive", help="Count whoever failed attention checks too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Means with intervals, differences and agreement; judgements.json, score.json, score.csv and figure 5 in the folder."""
    from tasks.study.results import write_results

    facts, files = write_results(folder, keep_inattentive)
    if as_json:
        json_line(facts)
        return
    from tasks.study.results import difference_rows, mean_rows

    out.print(listing(facts["title"], *mean_rows(facts), out.width, share=False))
    columns, rows = difference_rows(facts)
    out.print(listing(f"{facts['compared']} less the others", columns, rows, out.width, share=False))
    for question, found in facts["alpha"].items():
        ends = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
        shown = "too few to say" if found["alpha"] is None else f"{found['alpha']:.2f}{ends}"
        out.say(
            f"{question}: Krippendorff's alpha {shown} ({found['judged_by_several']} replies judged by several)"
        )
    counts = facts["counts"]
    out.say(
        f"{counts['came']} came, {counts['done']} are done; not counted: {counts['returned']} returned, "
        f"{counts['inattentive']} failed attention checks{' (counted all the same)' if keep_inattentive else ''}"
    )
    for path in files:
        out.say(str(path))
    out.say(f"into the report: empamba run … --set study.judgements={files[0]}")


def export_study(
    folder: StudyFolder,
    to: Annotated[Path, typer.Argument(metavar="TO", help="A new folder for Parquet files and data card.")],
    margin: Annotated[float, typer.Option(min=0, help="Points between best and worst reply at least.")] = 0.5,
    people: Annotated[int, typer.Option(min=1, help="Who judged each of the two at least.")] = 2,
    keep_inattentive: Annotated[bool, typer.Option("--keep-inattentive", help="As with `score`.")] = False,
) -> None:
    """Judgements as preference pairs, in the form of `empamba export pairs`: the best and the worst reply of each conversation."""
    from tasks.study.export import export_preferences
    from tasks.study.judgements import collect
    from tasks.study.study import read_study

    study = read_study(folder)
    done = export_preferences(study, collect(folder, study, keep_inattentive), to, margin, people)
    without = "".join(f", {count} without: {why}" for why, count in done["without"].items())
    out.say(f"{to}: {done['pairs']} pairs{without}")
    if study.of_pairs:
        out.say(f"EPO trains on them: empamba run … --set study.pairs={to}")
