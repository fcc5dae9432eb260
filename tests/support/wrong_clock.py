"""A wrong clock for a process and all that it starts: a library put before libc's that adds seconds to the time of day.

What counts from the machine's start, as waits and leases do, stays right, as on a machine whose clock somebody has set.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = shutil.which("cc")
needs_a_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here to put a clock wrong with")
SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*right)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = right(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += atol(getenv("WRONG_BY_S"));
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    int failed = clock_gettime(CLOCK_REALTIME, &found);
    if (!failed) *now = (struct timeval){found.tv_sec, found.tv_nsec / 1000};
    return failed;
}

time_t time(time_t *now) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}
"""


def wrong_clock(folder: Path, seconds: int) -> dict[str, str]:
    """What a process whose clock is wrong by that much has in its environment besides."""
    assert COMPILER is not None
    library = folder / "wrong_clock.so"
    if not library.exists():
        command = [COMPILER, "-x", "c", "-shared", "-fPIC", "-o", str(library), "-", "-ldl"]
        subprocess.run(command, input=SOURCE.encode(), check=True)
    return {"LD_PRELOAD": str(library), "WRONG_BY_S": str(seconds)}
