"""Which code this is: its commit, and the versions of libraries. Knows nothing of runs or reports."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version

from tasks.engine.fingerprint import ROOT

GIT_S = 10
"""Seconds that git may take to say which commit this is."""


def commit() -> str:
    """The commit of the code, and whether files differ from it; where there is none, the package's version."""
    head = (
        output_of(["git", "--no-optional-locks", "-C", str(ROOT), "rev-parse", "HEAD"])
        if (ROOT / ".git").exists()
        else ""
    )
    if not head:
        return f"none; empamba {version_of('empamba')}"
    changed = output_of(
        ["git", "--no-optional-locks", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]
    )
    return head + (" with changes" if changed else "")


def output_of(command: list[str]) -> str:
    """What a program prints; nothing where it is not there, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_S)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
