"""Where this machine's caches lie: what can be made again and belongs to no store."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache() -> Path:
    """`$EMPAMBA_CACHE`, or `~/.cache/empamba`. The zoo keeps weights there too, and must not import this one."""
    chosen = os.environ.get("EMPAMBA_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "empamba"
