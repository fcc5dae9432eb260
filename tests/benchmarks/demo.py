"""Wall time and peak memory of the default run, of each stage, and of the second run. `make bench NAME=demo`.

Runs the command line on the bundled sample in a fresh store, from outside, and ends with one JSON line. The
other side is the same command run again: what only-stale saves.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


def peak_memory(process: psutil.Process, stop: threading.Event) -> list[int]:
    """Largest sum of resident memory of a process and all it started, sampled ten times a second."""
    peak = [0]

    def watch() -> None:
        while not stop.wait(0.1):
            try:
                family = [process, *process.children(recursive=True)]
                peak[0] = max(peak[0], sum(_resident(p) for p in family))
            except psutil.NoSuchProcess:
                return

    threading.Thread(target=watch, daemon=True).start()
    return peak


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def timed(arguments: list[str]) -> tuple[float, int, str]:
    """Seconds, peak bytes and what was printed."""
    started = time.monotonic()
    command = [sys.executable, "-m", "flows.cli", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    stop = threading.Event()
    peak = peak_memory(psutil.Process(process.pid), stop)
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    stop.set()
    if process.wait():
        raise SystemExit(f"the run failed with exit code {process.returncode}")
    return time.monotonic() - started, peak[0], "".join(lines)


def stage_seconds(printed: str) -> dict[str, int]:
    """Seconds of each stage's items, added up, from the lines "done STAGE in N s"."""
    seconds: dict[str, int] = {}
    for stage, spent in re.findall(r"done (\S+).*? in (\d+) s", printed):
        seconds[stage] = seconds.get(stage, 0) + int(spent)
    return seconds


def main() -> None:
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as store:
        first, memory, printed = timed(["run", "--store", store, *arguments])
        second, second_memory, _ = timed(["run", "--store", store, *arguments])
    figures = {
        "name": "demo",
        "ratio": round(first / second, 1),
        "first_s": round(first, 1),
        "second_s": round(second, 1),
        "peak_gb": round(memory / 1e9, 2),
        "second_peak_gb": round(second_memory / 1e9, 2),
        "stage_s": stage_seconds(printed),
        "arguments": arguments,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
