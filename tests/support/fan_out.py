"""A stage of many items that only wait, for tests and benchmarks of runners.

FAN_OUT, in the environment of the run (its workers need it not), is JSON: {"count": 4, "seconds": 0.5} for items that sleep,
{"count": 1, "folder": DIR} for items that leave their process's number in DIR, start a program of their own, and wait until
DIR has a file `go`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from storage.store import Ref
from tasks.engine.declaration import Calls, Made, Stage
from tasks.engine.item import Workspace

RUN = 'run.stages=["tests.support.fan_out:STAGE"]'


def items(made: Made) -> Calls:
    asked = {"count": 0, "seconds": 0.0, "folder": "", **json.loads(os.environ.get("FAN_OUT", "{}"))}
    given = {"seconds": asked["seconds"], "folder": asked["folder"]}
    return {f"sample/{number}": {"number": number, **given} for number in range(asked["count"])}


def wait(number: int, seconds: float, folder: str, work: Workspace) -> list[Ref]:
    work.progress(0, 1, {})
    if folder:
        _until_told(Path(folder), number)
    else:
        time.sleep(seconds)
    return [work.store.put_bytes(f"waits/{number}", f"item {number}".encode())]


def _until_told(folder: Path, number: int) -> None:
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / f"{number}-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.02)
    program.kill()
    program.wait()


STAGE = Stage(
    name="waits",
    title="Items that wait",
    flow="write_report",
    items=items,
    function="tests.support.fan_out:wait",
    workers=10_000,
)
