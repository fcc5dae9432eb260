"""Programs of one machine that outlive the command that started them: a server, a worker.

Each holds the kernel lock of a file for as long as it lives, and leads a process group of its own. Whoever finds the lock
held knows that the number in the file beside it is still that program's, so no other process is ever signalled, whatever
number it has got. Knows nothing of what the programs do; imports no Prefect.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from storage.files import write_atomic

LOOK_S = 0.2
STARTS_S = 30.0
"""In which a program has noted its number, on a machine however busy."""
NOTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
with open(sys.argv[1], "w") as noted:
    noted.write(str(os.getpid()))
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Becomes the command that it is given, once its number is in a file. What a shell starts in the background has SIGINT ignored,
and so has all that it starts: Prefect's worker, which ends itself by that signal, would never end."""
LOG_BYTES, LOG_KEPT = 64 << 20, 4 << 20
"""Size above which a log is cut, and how much of its end stays."""
LAST_WORDS = 4096
"""Bytes of the end of a log that are searched for its last line."""


class Service:
    """One program. Its lock, number, facts and log are NAME.lock, NAME.pid, NAME.json and NAME.log in `folder`."""

    def __init__(self, name: str, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.log = name, folder / f"{name}.log"
        self._lock_path, self._pid_path, self._facts_path = (
            folder / f"{name}.{ending}" for ending in ("lock", "pid", "json")
        )

    def pid(self) -> int | None:
        """Its process, which leads its group; None where it does not run."""
        lock = self._take_lock(fcntl.LOCK_SH)  # shared: two who look do not take each other for the program
        if lock is not None:
            lock.close()
            return None
        try:
            return int(self._pid_path.read_text())
        except (OSError, ValueError):
            return None  # it has only just started

    def facts(self) -> dict:
        """What was noted when it was last started."""
        try:
            facts = json.loads(self._facts_path.read_bytes())
            return facts if isinstance(facts, dict) else {}
        except (OSError, ValueError):
            return {}

    def start(self, command: list[str], environment: dict[str, str], folder: Path, facts: dict) -> bool:
        """Start it in `folder`; False where it runs already."""
        deadline = time.monotonic() + 1.0
        while (lock := self._take_lock(fcntl.LOCK_EX)) is None:  # somebody may only be looking
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_S)
        write_atomic(self._facts_path, json.dumps(facts).encode())
        self._pid_path.unlink(missing_ok=True)
        # It notes its own number while it holds the lock: whoever starts it may be killed at any moment.
        noted = [sys.executable, "-I", "-S", "-c", NOTED, str(self._pid_path), *command]
        with lock, open(self.log, "ab") as log:
            process = subprocess.Popen(
                noted, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=(lock.fileno(),), start_new_session=True,
            )  # fmt: skip
        wait_until(lambda: self.pid() is not None or process.poll() is not None, STARTS_S)
        return True

    def stop(self, patience_s: float) -> bool:
        """End it, with all of its group where it does not end within `patience_s`. False where it does not run."""
        pid = self.pid()
        if pid is None:
            return False
        _send(os.kill, pid, signal.SIGTERM)
        if not wait_until(lambda: self.pid() is None, patience_s):
            _send(os.killpg, pid, signal.SIGKILL)
            wait_until(lambda: self.pid() is None, patience_s)
        return True

    def cut_log(self) -> None:
        """Leave the end of a log that has grown large. The program may run: it writes on behind that.

        What it writes in this very moment is lost.
        """
        try:
            size = self.log.stat().st_size
        except FileNotFoundError:
            return
        if size <= LOG_BYTES:
            return
        with open(self.log, "rb") as log:
            log.seek(-LOG_KEPT, os.SEEK_END)
            log.readline()  # the rest of one
            end = log.read()
        os.truncate(self.log, 0)
        with open(self.log, "ab") as log:
            log.write(end)

    def last_words(self) -> str:
        """The last line of its log that is not empty."""
        try:
            lines = self.log.read_bytes()[-LAST_WORDS:].decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _take_lock(self, kind: int) -> IO | None:
        """The lock, held by this process; None where the program holds it."""
        lock = open(self._lock_path, "a")
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            lock.close()
            return None


def wait_until(condition: Callable[[], object], timeout_s: float) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_S)
    return True


def _send(kill: Callable[[int, int], None], pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        kill(pid, number)
