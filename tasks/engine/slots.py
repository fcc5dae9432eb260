"""Slots for items that run at once, given out by urgency.

A free place goes to the waiting item whose stage has the longest chain of stages behind it, so that what holds up
the most starts first. Knows nothing of what an item does.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from tasks.engine.planner import Node
from tasks.engine.stopping import Stopped


def urgency(graph: list[Node]) -> dict[str, int]:
    """Stage -> stages in the longest chain from it to the end of the graph, itself included."""
    longest: dict[str, int] = {}
    for node in reversed(graph):
        name = node.stage.name
        followers = [other.stage.name for other in graph if name in other.needs]
        longest[name] = 1 + max((longest[follower] for follower in followers), default=0)
    return longest


class Slots:
    """`places` slots in all; `limits`: stage -> how many of its items may run at once."""

    def __init__(self, places: int, limits: dict[str, int], urgency: dict[str, int]):
        self._places, self._limits, self._urgency = places, limits, urgency
        self._busy: Counter[str] = Counter()
        self._waiting: list[tuple[int, int, str]] = []
        self._arrivals = count()
        self._changed = threading.Condition()
        self._closed: str | None = None

    def close(self, why: str) -> None:
        """Give out no more slots: whoever waits for one, or asks later, gets Stopped with the reason."""
        with self._changed:
            self._closed = why
            self._changed.notify_all()

    @contextmanager
    def take(self, stage: str) -> Iterator[None]:
        """Wait for a slot and hold it. Raises Stopped once the slots are closed."""
        with self._changed:
            ticket = (-self._urgency[stage], next(self._arrivals), stage)
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._closed is not None or self._next() == ticket)
            finally:
                self._waiting.remove(ticket)
            if self._closed is not None:
                raise Stopped(self._closed)
            self._busy[stage] += 1
            self._changed.notify_all()  # there may be a place for one more
        try:
            yield
        finally:
            with self._changed:
                self._busy[stage] -= 1
                self._changed.notify_all()

    def _next(self) -> tuple[int, int, str] | None:
        if self._busy.total() >= self._places:
            return None
        eligible = [ticket for ticket in self._waiting if self._busy[ticket[2]] < self._limits[ticket[2]]]
        return min(eligible, default=None)
