"""Upkeep of the store, and of what lies outside it: `verify`, `gc`, `caches`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import StoreFolder
from flows.cli.output import confirmed, out
from storage.errors import InputError
from storage.files import DEFAULT_STORE, on_store, store_name
from storage.remote.address import address_of
from tasks.engine.run import RunRequest
from tasks.engine.runs import runs
from tasks.terminal import size_text


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
    lines = [f"{mended} damaged, dropped: {_last_run(store)} makes them again"] if mended else []
    if left or not mended:
        lines.append(f"{left} damaged" if not repair or not left else f"{left} left as they are")
    out.say("; ".join(lines))
    raise typer.Exit(1 if left else 0)


def _last_run(store: Path) -> str:
    """The command that does the store's last run again; a run of the defaults where none is on record."""
    found, _ = runs(store)
    return (
        f"`{RunRequest.of_run(found[0], store_name(store)).command('run')}`"
        if found
        else on_store("run", store)
    )


def gc(
    store: StoreFolder = Path(DEFAULT_STORE),
    superseded: Annotated[
        bool, typer.Option("--superseded", help="Forget all but each item's latest record first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop what no record needs, after saying how much; waits for running flows."""
    if address_of(store) is not None:
        raise InputError(
            f"gc --store {store_name(store)}: a bucket is not cleaned up, since a run elsewhere may be about to name what nothing "
            f"names yet: begin another prefix and remove this one. {store} is a cache of it and may be removed at any time"
        )
    from tasks.upkeep import collect

    found = collect(store, superseded, dry=True)
    out.say(
        f"{found.before / 1e6:.1f} MB, of which {found.files} files, {(found.before - found.after) / 1e6:.1f} MB, "
        "are needed by no " + ("latest record" if superseded else "record")
    )
    if found.files and (yes or typer.confirm("Drop them?")):
        done = collect(store, superseded)
        out.say(f"{done.before / 1e6:.1f} MB before, {done.after / 1e6:.1f} MB after")


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
            if confirmed(known.question):
                out.say(f"removed: {remove(known)} entries")
            else:
                out.say("kept")
