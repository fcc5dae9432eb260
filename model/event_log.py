"""A training's curves as TensorBoard reads them: one event file a run, a scalar for every figure of every step.

Event files hold wall times, so they lie apart from what a training puts out. Knows nothing of what the figures mean.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

EVENT_FILES = "events.out.tfevents.*"
FLUSH_S = 10
"""Seconds after which figures are on the disk, for those who watch."""


class EventLog:
    """The event file of a run in a folder of its own; without a folder nothing is written.

    Files of an earlier run there go: one that was cut off is written again from its history, which leaves no step
    twice and none that was lost with it. What is written again has the time of its writing.
    """

    def __init__(self, folder: Path | None):
        self._writer = None
        if folder is not None:
            from tensorboardX import SummaryWriter  # a run that nobody logs does not need it

            for old in Path(folder).glob(EVENT_FILES):
                old.unlink()
            self._writer = SummaryWriter(str(folder), flush_secs=FLUSH_S)

    def write(self, group: str, entries: Iterable[dict[str, float]]) -> None:
        """Figures of steps, {"step": n, name: value, …}, as `group/name`."""
        for entry in entries if self._writer is not None else ():
            for name, value in entry.items():
                if name != "step":
                    self._writer.add_scalar(f"{group}/{name}", value, entry["step"])

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_) -> None:
        if self._writer is not None:
            self._writer.close()
