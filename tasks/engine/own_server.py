"""A server on the loopback interface that lives as long as the process that started it, with a database of its own.

It ends with its starter, however that ends (lifeline.py), and its starter is notified at once when the server ends.
Databases are numbered; a server takes the first that no living one holds, so that runs one after the other
share a history and runs at once never share a database, which SQLite would lock. Knows nothing of what is served.
"""

from __future__ import annotations

import fcntl
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
LAST_WORDS = 4096
"""Bytes of the end of a log that are searched for its last line."""


class ServerFailed(RuntimeError):
    """The server did not start; the message says what its log says last."""


class OwnServer:
    """A uvicorn application in a process of its own. Its log and database lie in `folder`."""

    def __init__(self, application: str, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._lock, number = _first_free(folder)
        self.database, self.log = folder / f"{number}.db", folder / f"{number}.log"
        self._application = application
        self._ending = False
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, environment: dict[str, str], timeout_s: float, lost: Callable[[str], None]) -> str:
        """Start it and wait until it answers; returns its address.

        lost(why): called from a thread of its own when it ends before `stop`. Raises ServerFailed.
        """
        # It is given a listening socket: no port is looked for, freed and taken by another meanwhile.
        with socket.create_server(("127.0.0.1", 0)) as listening, open(self.log, "wb") as log:
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tasks.engine.lifeline", "uvicorn", "--factory", self._application,
                 "--fd", str(listening.fileno()), "--log-level", "error", "--lifespan", "on"],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, cwd=ROOT,
                pass_fds=(listening.fileno(), self._lock.fileno()),
                start_new_session=True,  # a terminal's Ctrl-C is for the run, which tells the server how it ended
            )  # fmt: skip
        try:
            with urllib.request.urlopen(f"{address}/api/health", timeout=timeout_s) as answer:
                answer.read()
        except OSError as error:
            self.stop()
            raise ServerFailed(f"the run's own server did not start: {self._last_words() or error}") from None
        threading.Thread(
            target=self._watch, args=(self._process, lost), name="own server", daemon=True
        ).start()
        return address

    def _watch(self, process: subprocess.Popen[bytes], lost: Callable[[str], None]) -> None:
        code = process.wait()
        if not self._ending:
            ending = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
            lost(f"the run's own server {ending} (log: {self.log})")

    def _last_words(self) -> str:
        lines = self.log.read_bytes()[-LAST_WORDS:].decode("utf-8", "replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def stop(self, patience_s: float = 5.0) -> None:
        """End it, by force where it does not within `patience_s`."""
        self._ending = True
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._lock.close()


def _first_free(folder: Path) -> tuple[IO, int]:
    """The first number whose lock nobody holds, and the lock, held. The server holds it too, for as long as it lives."""
    number = 0
    while True:
        lock = open(folder / f"{number}.lock", "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock, number
        except BlockingIOError:
            lock.close()
        number += 1
