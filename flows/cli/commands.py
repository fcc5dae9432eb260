"""Every command, in the order in which `--help` lists them: a new one is a function in a file of its own, and a line here.

Nothing heavy is imported at the top of a file of commands (no torch, no Prefect), so that each starts at once.
"""

from __future__ import annotations

import typer

from flows.cli.chat import chat, serve_rungs
from flows.cli.inputs import check, fetch, sample
from flows.cli.ops import deploy, down, up
from flows.cli.ops import status as ops_status
from flows.cli.results import export_pairs, export_replies, report, show
from flows.cli.runs import list_runs, run, status
from flows.cli.store import caches, gc, verify
from flows.cli.study import export_study, make, release, score, serve
from flows.cli.study import status as study_status
from flows.cli.weights import evaluate_scorer, list_weights, pretrain_compressor, pull_weights, train_scorer

COMMANDS = {
    "run": run,
    "status": status,
    "show": show,
    "runs": list_runs,
    "report": report,
    "chat": chat,
    "serve": serve_rungs,
    "verify": verify,
    "gc": gc,
    "sample": sample,
    "check": check,
    "fetch": fetch,
    "caches": caches,
}
GROUPS = {
    "weights": ("The profile's pretrained weights.", {"list": list_weights, "pull": pull_weights}),
    "scorer": (
        "The project's own emotion scorer.",
        {"train": train_scorer, "evaluate": evaluate_scorer},
    ),
    "compressor": ("The project's own small compressor.", {"pretrain": pretrain_compressor}),
    "ops": (
        "A Prefect server, work pool and worker on this machine.",
        {"up": up, "status": ops_status, "down": down, "deploy": deploy},
    ),
    "study": (
        "People judge replies (section 5.2).",
        {
            "make": make,
            "serve": serve,
            "status": study_status,
            "release": release,
            "score": score,
            "export": export_study,
        },
    ),
    "export": (
        "A run's results as datasets of their own.",
        {"pairs": export_pairs, "replies": export_replies},
    ),
}


def command_line() -> typer.Typer:
    """The application with all of them."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    for name, command in COMMANDS.items():
        app.command(name)(command)
    for name, (about, commands) in GROUPS.items():
        group = typer.Typer(no_args_is_help=True, help=about)
        for part, command in commands.items():
            group.command(part)(command)
        app.add_typer(group, name=name)
    return app
