"""Wall time and peak memory of the default run, of each stage, and of the second run. `make bench NAME=demo`.

Runs the command line on the bundled sample in a fresh store, from outside, and ends with one JSON line. The
other side is the same command run again: what only-stale saves. Last, on the sample, one sentence is changed and the
data stages run again.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import psutil

from tasks.engine.run import RunRequest
from tasks.engine.runs import runs
from tasks.stages.shards import read_rows

ROOT = Path(__file__).resolve().parents[1]


class PeakMemory:
    """Largest memory of a process and all it started, sampled four times a second until `stop`.

    `resident` adds up resident sets, so what processes share (libraries, forked pages) counts once for each;
    `proportional`, taken at each new peak of the former, divides shared pages among those that share them:
    what the machine really gave.
    """

    def __init__(self, process: psutil.Process):
        self.resident = self.proportional = 0
        self.at_peak: list[str] = []
        self._process, self._stop = process, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            resident = sum(_resident(process) for process in family)
            if resident > self.resident:
                self.resident = resident
                self._look(family)

    def _look(self, family: list[psutil.Process]) -> None:
        sizes = {process.pid: _proportional(process.pid) for process in family}
        if sum(sizes.values()) > self.proportional:
            self.proportional = sum(sizes.values())
            self.at_peak = [f"{size / 1e9:.2f} GB {_name(p)}" for p, size in sizes.items() if size > 1e8]

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _proportional(pid: int) -> int:
    """Bytes of a process with shared pages divided among those that share them; 0 when it has gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _name(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline()[1:4])
    except psutil.NoSuchProcess:
        return "gone"


def timed(arguments: list[str]) -> tuple[float, PeakMemory]:
    """Seconds and peak memory of a command, which prints as it always does."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, stderr=subprocess.STDOUT
    )
    peak = PeakMemory(psutil.Process(process.pid))
    code = process.wait()
    peak.stop()
    if code:
        raise SystemExit(f"the run failed with exit code {code}")
    return time.monotonic() - started, peak


def stage_seconds(store: Path) -> dict[str, float]:
    """Seconds of each stage's items in the last run, added up."""
    return {stage: round(seconds, 1) for stage, seconds in runs(store)[0][0].seconds.items()}


def change_one_sentence(store: Path, copy: Path) -> None:
    """Copy the sample tree of a finished run, another sentence in one exchange that candidates were written for."""
    request = RunRequest(store=str(store))
    with request.session() as session:
        plans = {plan.stage.name: plan for plan in session.plan("utterances")}
        refs = [ref for refs in plans["utterances.exchanges"].outputs.values() for ref in refs]
        rows = read_rows(session.store, refs, "exchanges", "train")
        shutil.copytree(session.raw_root, copy)
    chosen = next(row for row in rows if row["selected"] and row["dataset"] == "meld")
    path = next(copy.rglob("train_sent_emo.csv"))
    text = path.read_bytes().decode()
    assert chosen["sentence"] in text or '"' in chosen["sentence"]
    path.write_bytes(text.replace(chosen["sentence"], "Did you hear that on the roof just now?", 1).encode())


def candidates_written(store: Path) -> int:
    with closing(sqlite3.connect(store / "rows" / "candidates.sqlite")) as rows:
        return rows.execute("select count(*) from rows").fetchone()[0]


def one_change(store: Path) -> dict[str, float]:
    """What a changed sentence costs as far as the pairs."""
    with tempfile.TemporaryDirectory() as scratch:
        change_one_sentence(store, Path(scratch) / "raw")
        before = candidates_written(store)
        seconds, _ = timed(["run", "--store", str(store), "--raw", f"{scratch}/raw", "--until", "pairs"])
    return {
        "changed_s": round(seconds, 1),
        "changed_candidates": candidates_written(store) - before,
        "changed_stage_s": stage_seconds(store),
    }


def main() -> None:
    arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as store:
        first, memory = timed(["run", "--store", store, *arguments])
        spent = stage_seconds(Path(store))
        second, second_memory = timed(["run", "--store", store, *arguments])
        changed = {} if arguments else one_change(Path(store))
    figures = {
        "name": "demo",
        "ratio": round(first / second, 1),
        "first_s": round(first, 1),
        "second_s": round(second, 1),
        "peak_resident_gb": round(memory.resident / 1e9, 2),
        "peak_proportional_gb": round(memory.proportional / 1e9, 2),
        "at_peak": memory.at_peak,
        "second_peak_resident_gb": round(second_memory.resident / 1e9, 2),
        "stage_s": spent,
        "arguments": arguments,
        **changed,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
