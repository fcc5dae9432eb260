"""A benchmark's own measurements, each in a process of its own on one thread. No benchmark itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def measured_apart(
    program: str, *arguments: str, giving_back: bool = False, paths: Sequence[str] = ()
) -> dict:
    """Run a benchmark's file with `arguments` and return its last line, which is JSON.

    giving_back: the allocator returns freed memory at once, for peaks that tell of what was needed; slower.
    paths: folders to import from, beside the repository. Ends the benchmark where the process fails.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *paths, os.environ.get("PYTHONPATH", "")])
    if giving_back:
        environment["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
    done = subprocess.run(
        [sys.executable, program, *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
