"""The places where failures are told: those of the environment, or of the file that `empamba ops up` keeps for a machine.

A file, since a worker that runs and what it has started hear of another place at once, and a worker that is started again has
it still. It is its owner's alone: addresses hold secrets. Knows nothing of how they are told; imports no Prefect.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

PLACES = "EMPAMBA_NOTIFY"
"""In the environment: the places, with a space between two."""
PLACES_FILE = "EMPAMBA_NOTIFY_FILE"
"""In the environment: the file that has them where that names none."""


def places() -> list[str]:
    """None where nobody asked to be told."""
    named, file = os.environ.get(PLACES), os.environ.get(PLACES_FILE)
    if named is None and file is not None:
        with suppress(OSError):  # none was ever given
            named = Path(file).read_text(encoding="utf-8")
    return (named or "").split()


def keep_places(file: Path, named: str) -> None:
    """Have the file name these places alone."""
    temporary = file.with_name(f"{file.name}.new")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as writing:
        writing.write(named)
    os.replace(temporary, file)
