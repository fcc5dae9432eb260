"""Waiting for a condition, in place of a sleep that hopes it has happened."""

from __future__ import annotations

import time
from pathlib import Path

POLL_S = 0.05


def wait_for(what, seconds: float = 60.0):
    """The first true value of `what()`. AssertionError: none within `seconds`, which are many: a busy machine is slow."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"nothing within {seconds:.0f} s")


def waits_for_a_lock(pid: int) -> bool:
    """Whether a thread of this process waits for a kernel file lock (proc(5), /proc/locks: "->" is a waiter)."""
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return any(line.split()[1] == "->" and str(pid) in line.split()[2:6] for line in lines)
