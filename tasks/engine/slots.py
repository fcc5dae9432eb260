"""Slots for items that run at once, given out by urgency, as far as the machine's GPUs, memory and cores go.

A free place goes to the waiting item whose stage has the longest chain of stages behind it, so that what holds up
the most starts first; one that takes nothing of what that is short of may pass it. Knows nothing of what an item does.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import NamedTuple

from tasks.engine.planner import Node
from tasks.engine.resources import WITHOUT_LIMIT, Resources
from tasks.engine.stopping import Stopped


def urgency(graph: list[Node]) -> dict[str, int]:
    """Stage -> stages in the longest chain from it to the end of the graph, itself included."""
    longest: dict[str, int] = {}
    for node in reversed(graph):
        name = node.stage.name
        followers = [other.stage.name for other in graph if name in other.needs]
        longest[name] = 1 + max((longest[follower] for follower in followers), default=0)
    return longest


class _Ticket(NamedTuple):
    """An item that waits; the smallest goes first."""

    urgency: int
    arrival: int
    stage: str
    takes: Resources


class Slots:
    """`places` slots in all; `limits`: stage -> how many of its items may run at once; has: what they share, asked for
    when the first item comes. An item that takes more than there is runs alone."""

    def __init__(
        self,
        places: int,
        limits: dict[str, int],
        urgency: dict[str, int],
        has: Callable[[], Resources] = lambda: WITHOUT_LIMIT,
    ):
        self._places, self._limits, self._urgency, self._has = places, limits, urgency, has
        self._busy: Counter[str] = Counter()
        self._taken = Resources()
        self._waiting: list[_Ticket] = []
        self._arrivals = count()
        self._changed = threading.Condition()
        self._closed: str | None = None

    def close(self, why: str) -> None:
        """Give out no more slots: whoever waits for one, or asks later, gets Stopped with the reason."""
        with self._changed:
            self._closed = why
            self._changed.notify_all()

    @contextmanager
    def take(self, stage: str, takes: Resources = Resources()) -> Iterator[None]:  # noqa: B008 - frozen
        """Wait for a slot and hold it. Raises Stopped once the slots are closed."""
        has = self._has()
        with self._changed:
            ticket = _Ticket(-self._urgency[stage], next(self._arrivals), stage, takes)
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._closed is not None or self._next(has) == ticket)
            finally:
                self._waiting.remove(ticket)
            if self._closed is not None:
                raise Stopped(self._closed)
            self._busy[stage] += 1
            self._taken += takes
            self._changed.notify_all()  # there may be a place for one more
        try:
            yield
        finally:
            with self._changed:
                self._busy[stage] -= 1
                self._taken = self._taken.without(takes)
                self._changed.notify_all()

    def _next(self, has: Resources) -> _Ticket | None:
        busy = self._busy.total()
        if busy >= self._places:
            return None
        short: set[str] = set()  # of which a more urgent item waits for more
        for ticket in sorted(self._waiting):
            if self._busy[ticket.stage] >= self._limits[ticket.stage] or short & ticket.takes.wanted():
                continue
            lacking = (self._taken + ticket.takes).beyond(has) if busy else set()
            if not lacking:
                return ticket
            short |= lacking & ticket.takes.wanted()
        return None
