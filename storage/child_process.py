"""Helpers for child processes that are spoken to over pipes: the pipes, and how the process ended."""

from __future__ import annotations

import signal
import subprocess
from typing import IO


def pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output of a process that was started with both as pipes."""
    assert process.stdin is not None and process.stdout is not None, "started without pipes"
    return process.stdin, process.stdout


def how_it_ended(code: int) -> str:
    """A return code in words: "was killed by SIGKILL", "exited with status 3"."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
