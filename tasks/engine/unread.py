"""Output that nobody reads any more goes nowhere, and who writes it goes on.

A worker that is killed leaves behind the pipes that its runs print into, and the next line would end a run. Knows nothing of
runs.
"""

from __future__ import annotations

import os
import select
import threading
from functools import cache

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


@cache
def goes_on_unread() -> None:
    """From now on, of this process: standard output and error whose reader has gone are written to nothing."""
    threading.Thread(target=_watch, name="unread", daemon=True).start()


def _watch() -> None:
    poller = select.poll()
    for file in (STANDARD_OUTPUT, STANDARD_ERROR):
        poller.register(file, 0)  # for errors alone, which a pipe without a reader is
    for _ in (STANDARD_OUTPUT, STANDARD_ERROR):
        file, _event = poller.poll()[0]
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), file)
        poller.unregister(file)
