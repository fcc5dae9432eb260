"""The command `empamba` as a shell runs it: in a process of its own, its bytes kept, on a terminal where one is asked for."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "flows.cli")


def environment(folder: Path, width: int = 400) -> dict[str, str]:
    """Environment with Prefect's home in `folder`, and a terminal of `width` characters."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "COLUMNS": str(width),
    }


def empamba(
    folder: Path, *arguments: str, width: int = 400, timeout: float = 900, **more
) -> subprocess.CompletedProcess:
    """Run it in `folder`; standard output and error as bytes."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        cwd=folder,
        env=environment(folder, width) | more,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )


def on_a_terminal(folder: Path, *arguments: str, answer: bytes = b"", **more) -> tuple[int, bytes]:
    """Exit code and all bytes of it on a terminal, where `answer` is typed."""
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=environment(folder, 100) | {"TERM": "xterm-256color"} | more,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side has gone
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(60), shown
