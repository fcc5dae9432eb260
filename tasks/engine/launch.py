"""A training item in several processes, which accelerate's launcher starts on this machine.

The process that was given the item (`run_launched`) waits and passes on the main process's messages; each of
them runs the same stage function with the same arguments, and they meet in the training loop (model/processes.py).
They end when their starter does. Knows nothing of stages or of training.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from storage.child_process import pipes

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = (sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch")
PLAIN = ("--multi_gpu", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
"""Processes that each hold the whole model; over gloo where there is no GPU."""


def run_launched(job: dict, answer: Callable[[dict], None]) -> int:
    """Run an item in `job["processes"]` processes and tell the parent what came of it. Returns 0."""
    configuration = job["launch_config"]
    if configuration is not None and not (ROOT / configuration).is_file():
        answer({"failed": f"run.launch_config: no file {ROOT / configuration}", "usage": True})
        return 0
    form = PLAIN if configuration is None else ("--config_file", str(ROOT / configuration))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        launched = subprocess.Popen(
            [*LAUNCHER, *form, f"--num_processes={job['processes']}", "--main_process_port=0",
             "--module", "tasks.engine.launch", str(path)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        outcome = False
        for line in pipes(launched)[1]:
            if not line.startswith(b"{"):  # the launcher's own
                sys.stderr.buffer.write(line)
                continue
            message = json.loads(line)
            outcome = outcome or "done" in message or "failed" in message
            answer(message)
        code = launched.wait()
    if not outcome:
        answer(
            {
                "failed": f"its {job['processes']} processes ended with status {code}; see the log",
                "usage": False,
            }
        )
    return 0


def serve_launched(path: Path) -> int:
    """One of the processes: run the item. Returns its exit code."""
    from model.processes import Processes
    from tasks.engine.worker import answers_on_stdout, run_item

    answer = answers_on_stdout()
    threading.Thread(target=_end_with_starter, daemon=True).start()
    processes = Processes()
    failed = False

    def pass_on(message: dict) -> None:
        nonlocal failed
        failed = failed or "failed" in message
        if processes.is_main:
            answer(message)

    run_item(json.loads(path.read_text(encoding="utf-8")), pass_on)
    if not failed:
        processes.leave()
    return int(failed)


def _end_with_starter() -> None:
    """The input is a pipe that nobody writes to: it ends when the starter goes, and so must this process."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(serve_launched(Path(sys.argv[1])))
