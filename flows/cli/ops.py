"""A machine's Prefect server, work pool and worker: `ops up`, `ops status`, `ops down`; and `ops deploy`, to any server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flows.cli.options import AsJson, RunOptions, grouped
from flows.cli.output import err, out
from tasks.terminal import json_line

OPS = Path.home() / ".empamba" / "ops"
Folder = Annotated[
    Path, typer.Option("--home", file_okay=False, help="Folder of the server's database, logs and locks.")
]


@grouped
def up(
    options: RunOptions,
    home: Folder = OPS,
    host: Annotated[
        str | None, typer.Option(help="Address that the server listens on; 127.0.0.1 unless told.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Its port; 4200 unless told.")] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            help='Where failures are told: a webhook, Slack or e-mail (docs/operations.md); "" for nowhere.'
        ),
    ] = None,
) -> None:
    """Start server, work pool and worker, deploy the flows for this data, profile and store; print the address.

    --host, --port and --notify stay as they were last told.
    """
    from tasks.orchestration.ops import Ops

    request = options.request()
    request.settings()  # a wrong one is said here and not by the first night's run
    ops = Ops(home)
    address = ops.up(request, host, port, notify)
    if left := ops.not_heeded(host, port):
        err.say(left)
    out.say(f"{address}  refresh runs nightly and after a change that `watch` sees; logs: {home}")


@grouped
def deploy(
    options: RunOptions,
    api: Annotated[
        str, typer.Option(envvar="PREFECT_API_URL", help="The server's API: http://HOST:4200/api.")
    ],
    home: Folder = OPS,
) -> None:
    """Deploy the flows for this data, profile and store to a server that runs elsewhere, as in a container."""
    from tasks.orchestration.deploy import ROOT
    from tasks.orchestration.deploy import deploy as deployed
    from tasks.orchestration.rest import Api

    request = options.request()
    request.settings()
    # EMPAMBA_HOME: this project's folder where the worker runs, which need not be this machine.
    environment = {"EMPAMBA_HOME": str(ROOT), **os.environ, "PREFECT_API_URL": api}
    deployed(Api(api.rstrip("/")), environment, home, request.placed())
    out.say(f"deployed to {api}")


def status(home: Folder = OPS, as_json: AsJson = False) -> None:
    """What of it runs, what is planned, and how each deployment's last run ended. Exit code 1 where it is not up."""
    from tasks.orchestration.ops import Ops

    found = Ops(home).status()
    whole = found.answers and found.worker is not None
    if as_json:
        json_line(found.as_dict())
        raise typer.Exit(0 if whole else 1)
    server = "up" if found.answers else "does not answer" if found.server else "down"
    out.say(f"server  {server}" + (f"  {found.address}  (process {found.server})" if found.server else ""))
    out.say("worker  " + (f"up  (process {found.worker})" if found.worker else "down"))
    if found.answers:
        out.say("runs    " + (", ".join(f"{count} {state}" for state, count in found.runs.items()) or "none"))
        table = Table("deployment", "next", "last", "", box=None, pad_edge=False)
        for one in found.deployments:
            table.add_row(one["name"], _time(one["next"]), one["last"] or "", _time(one["last_at"]))
        out.print(table)
    raise typer.Exit(0 if whole else 1)


def down(home: Folder = OPS) -> None:
    """End the worker, what it runs, and the server; the next `up` goes on from there."""
    from tasks.orchestration.ops import Ops

    found = Ops(home).down()
    ended = [name for name in ("worker", "server") if found[name]]
    runs = f"; runs cut off: {found['runs']}, the next goes on from there" if found["runs"] else ""
    out.say((f"ended: {' and '.join(ended)}" if ended else "nothing was running") + runs)


def _time(stamp: str | None) -> str:
    """A time of the server's as people read it: "2026-11-30 03:00 UTC"."""
    return "" if stamp is None else f"{stamp[:16].replace('T', ' ')} UTC"
