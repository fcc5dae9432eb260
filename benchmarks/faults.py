"""Kill -9 at random moments, each followed by a re-run: `make bench NAME=faults`.

A run, or the worker process that computes one of its items, is killed; the next run goes on from the store as it
lies and may be killed in turn, until one comes through. After every kill each recorded artefact is compared with its
digest; in the end all digests must be those of a run that nobody disturbed. Runs are made at the stage layer, and
some by the command line against a running Prefect server.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from storage.sample.layout import write_sample
from tasks.upkeep import damaged
from tests.support.prefect_server import prefect_server
from tests.support.rerun import digests, session

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "candidates.budget=48", "candidates.max_new_tokens=16", "pairs.fallback=none", "pairs.threshold=1.0",
    "replies.exchanges=2", "compressor.free_running_rows=1",
    *(f"{part}.max_tokens=200" for part in ("compressor.pretrain", "compressor.finetune", "dialogue.training", "epo.training")),
    *(f"{part}.heldout_rows=2" for part in ("compressor.pretrain", "dialogue.training", "epo.training")),
    "run.checkpoint_s=0",
)  # fmt: skip
"""A run in seconds; training leaves its state after every step."""

HANGS_S = 600


@dataclass
class Told:
    """What a campaign saw. finished: runs that came through. wrong: what must not be."""

    kills: dict[str, int] = field(default_factory=lambda: {"run": 0, "worker": 0})
    finished: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


def lay_out(folder: Path) -> Path:
    """MELD's tree of the sample corpus, text alone."""
    write_sample(folder, media=False, dialogues=2, turns=6)
    for tree in ("MultiDialog", "IEMOCAP_full_release"):
        shutil.rmtree(folder / tree)
    return folder


def campaign(
    kills: int, seed: int, raw: Path, folder: Path, profile: str = "tiny", until: str | None = None,
    changes: tuple[str, ...] = SMALL, server: dict[str, str] | None = None,
) -> Told:  # fmt: skip
    """server: the environment of a Prefect server to run against; None: at the stage layer."""
    draw, told = random.Random(seed), Told()

    def command(store: Path) -> list[str]:
        return _command(profile, store, raw, until, changes, server is not None)

    started = time.monotonic()
    expected = _finish(command(folder / "undisturbed"), server, told) and _digests(
        profile, folder / "undisturbed", raw, until, changes
    )
    length = time.monotonic() - started
    while told.killed < kills and not told.wrong:
        store, began = folder / f"disturbed-{told.finished}", time.monotonic()
        while told.killed < kills and _disturb(command(store), server, draw, length, told):
            told.wrong += [f"after {told.killed} kills: {line}" for line in damaged(store, repair=False)]
        # A machine that has become quicker lets runs come through before their kill.
        length = min(length, time.monotonic() - began)
        if _finish(command(store), server, told):
            found = _digests(profile, store, raw, until, changes)
            told.wrong += [f"{name} differs" for name in expected if expected[name] != found.get(name)]
            told.finished += 1
        shutil.rmtree(store, ignore_errors=True)  # a killed run's worker may still be ending
    return told


def _command(
    profile: str, store: Path, raw: Path, until: str | None, changes: tuple[str, ...], orchestrated: bool
) -> list[str]:
    ends = [] if until is None else ["--until", until]
    if orchestrated:
        ends += [word for change in changes for word in ("--set", change)]
        given = ["run", "--profile", profile, "--store", str(store), "--raw", str(raw)]
        return [sys.executable, "-m", "flows.cli", *given, *ends]
    return [sys.executable, "-m", "tests.support.rerun", profile, str(store), str(raw), *changes, *ends]


def _start(command: list[str], server: dict[str, str] | None) -> subprocess.Popen:
    environment = {**os.environ, **(server or {}), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet)


def _disturb(command: list[str], server: dict | None, draw: random.Random, length: float, told: Told) -> bool:
    """Start a run and kill it, or one of its workers; False where it had come through before."""
    process = _start(command, server)
    try:
        process.wait(draw.uniform(0, length))
        return False
    except subprocess.TimeoutExpired:
        pass
    workers = _workers(process.pid)
    victim = draw.choice(["run", "worker"]) if workers else "run"
    try:
        os.kill(draw.choice(workers).pid if victim == "worker" else process.pid, signal.SIGKILL)
    except ProcessLookupError:
        victim = "run"
        process.kill()
    told.kills[victim] += 1
    try:
        process.wait(HANGS_S)
    except subprocess.TimeoutExpired:
        told.wrong.append(f"a run hung after its {victim} was killed")
        process.kill()
    return True


def _workers(run: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(run).children(recursive=True):
        with suppress(psutil.Error):  # it may have ended meanwhile
            if "tasks.engine.worker" in process.cmdline():
                found.append(process)
    return found


def _finish(command: list[str], server: dict | None, told: Told) -> bool:
    process = _start(command, server)
    try:
        code = process.wait(HANGS_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = "no end"
    if code:
        told.wrong.append(f"a run that nobody disturbed ended with {code}")
    return not code


def _digests(
    profile: str, store: Path, raw: Path, until: str | None, changes: tuple[str, ...]
) -> dict[str, str]:
    with session(profile, store, raw, changes) as opened:
        return digests(opened, until)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=180, help="at the stage layer")
    parser.add_argument("--server-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        raw = lay_out(folder / "raw")
        told = {"stage layer": campaign(arguments.kills, arguments.seed, raw, folder / "layer")}
        print(told, flush=True)
        if arguments.server_kills:
            with prefect_server(folder / "prefect") as server:
                told["server"] = campaign(
                    arguments.server_kills, arguments.seed, raw, folder / "server", server=server
                )
    wrong = [line for each in told.values() for line in each.wrong]
    print("\n".join(wrong))
    print(
        json.dumps(
            {
                "name": "faults",
                "ratio": 0 if wrong else 1,
                "wrong": len(wrong),
                **{name: {**each.kills, "finished": each.finished} for name, each in told.items()},
            }
        )
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
