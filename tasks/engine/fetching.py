"""Weights of the models' hub, fetched before a run's first stage: many hours in, a hub that cuts off would cost those hours.

Each in a process of its own, which ends as soon as the run stops: `python -m tasks.engine.fetching NAME` says in a line of JSON
what went wrong. Knows nothing of stages, or of what the weights are for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile

from model.zoo.errors import ZooError
from model.zoo.hub import fetched
from tasks.engine.passing import can_pass
from tasks.engine.stopping import Stop

ROOT = Path(__file__).resolve().parents[2]
LOOK_S = 0.2
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class Broken(ZooError):
    """Weights that did not come. passes: whether they may another time."""

    def __init__(self, why: str, passes: bool):
        super().__init__(why)
        self.passes = passes


def fetch(name: str, offline: bool, stop: Stop) -> None:
    """Have the weights `name` lie on this machine. Raises Broken, one line, and Stopped as soon as the run stops."""
    environment = {**os.environ, **QUIET, **({"HF_HUB_OFFLINE": "1"} if offline else {})}
    command = [sys.executable, "-m", "tasks.engine.lifeline", __name__, name]
    with TemporaryFile("w+") as told:
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=told, stderr=subprocess.DEVNULL
        )
        try:
            while process.poll() is None:
                stop.wait(LOOK_S)
        finally:
            process.kill()
            process.wait()
        told.seek(0)
        said = told.read().strip()
    if process.returncode:
        fault = json.loads(said) if said else {"why": f"exit code {process.returncode}", "passes": False}
        raise Broken(**fault)


def main(name: str) -> int:
    try:
        fetched(name)
    except ZooError as error:
        sys.stdout.write(json.dumps({"why": str(error), "passes": can_pass(error)}) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
