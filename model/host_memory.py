"""How much of this machine's memory is to be had, within the container's limit. Imports no torch."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def free_host_memory(processes: int = 1) -> int:
    """Bytes of memory and swap that each of so many processes can have."""
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    return min(free, _left_by_container(free)) // processes


def _left_by_container(unlimited: int) -> int:
    """What the control group (version 2) has left, files that only were read not counted; else `unlimited`."""
    try:
        facts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        files = int(facts["active_file"]) + int(facts["inactive_file"])
        most = int((CGROUP / "memory.max").read_text())  # "max" where there is no limit
        return most - int((CGROUP / "memory.current").read_text()) + files
    except (OSError, ValueError, KeyError):
        return unlimited
