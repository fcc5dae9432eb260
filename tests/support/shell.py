"""`empamba` as a shell sees it: a process of its own, its words, its children, and how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
STARTS_S = 240
"""A busy machine's start: an interpreter, Prefect, and a new database."""


def as_from_a_terminal() -> None:
    """In a new process: what `&` or `nohup` told the tests to ignore is not ignored there."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Shell:
    """A running command. In `with`, so that what it starts ends with the test whatever happens."""

    def __init__(self, folder: Path, *arguments: str, environment: dict[str, str] | None = None):
        self.log = folder / "shell.log"
        self._family: dict[int, psutil.Process] = {}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "400", **(environment or {})},
                preexec_fn=as_from_a_terminal,
            )  # fmt: skip

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_) -> None:
        self.family()
        self.process.kill()
        self.process.wait()
        for process in self._family.values():
            if process.is_running():
                process.kill()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Every process once seen below it that still runs."""
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self._family.setdefault(child.pid, child)
        except psutil.NoSuchProcess:
            pass
        return [p for p in self._family.values() if _runs(p)]

    def children(self, word: str) -> list[psutil.Process]:
        """Those of the family with `word` in their command line."""
        return [process for process in self.family() if word in " ".join(_command(process))]

    def until(self, what, seconds: float = STARTS_S):
        """The first true value of `what()` while it runs. AssertionError: it has ended, or there is none in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = what()
            if found:
                return found
            assert self.process.poll() is None, self.text()[-3000:]
            self.family()
            time.sleep(0.05)
        raise AssertionError(f"nothing within {seconds:.0f} s:\n{self.text()[-3000:]}")

    def says(self, words: str) -> None:
        self.until(lambda: words in self.text())

    def send(self, number: int) -> None:
        self.family()
        os.kill(self.process.pid, number)

    def ends(self, seconds: float) -> int:
        """Its exit status as a shell names it: 128 and a signal's number where that killed it."""
        code = self.process.wait(seconds)
        return code if code >= 0 else 128 - code

    def leaves(self, seconds: float) -> list[str]:
        """What of its family still runs after so long."""
        deadline = time.monotonic() + seconds
        while (left := self.family()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [" ".join(_command(process)) for process in left]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def last_line(text: str) -> str:
    return [line for line in text.splitlines() if line.strip()][-1]
