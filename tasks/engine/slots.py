"""Slots for items that run at once, given out by urgency, as far as the machine's GPUs, memory and cores go.

A free place goes to the waiting item whose stage has the longest chain of stages behind it, so that what holds up
the most starts first; one that takes nothing of what that is short of may pass it. Knows nothing of what an item does.
"""

from __future__ import annotations

import threading
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

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


@dataclass(order=True)
class _Ticket:
    """An item that waits; the smallest goes first. called: it has its slot, or there will be none."""

    urgency: int
    arrival: int
    stage: str = field(compare=False)
    takes: Resources = field(compare=False)
    has_slot: bool = field(default=False, compare=False)
    called: threading.Event = field(default_factory=threading.Event, compare=False)


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
        self._waiting: list[_Ticket] = []  # sorted
        self._arrivals = count()
        self._guard = threading.Lock()
        self._closed: str | None = None

    def close(self, why: str) -> None:
        """Give out no more slots: whoever waits for one, or asks later, gets Stopped with the reason."""
        with self._guard:
            self._closed = why
            for ticket in self._waiting:
                ticket.called.set()

    @contextmanager
    def take(self, stage: str, takes: Resources = Resources()) -> Iterator[None]:  # noqa: B008 - frozen
        """Wait for a slot and hold it. Raises Stopped once the slots are closed."""
        has = self._has()
        with self._guard:
            if self._closed is not None:
                raise Stopped(self._closed)
            ticket = _Ticket(-self._urgency[stage], next(self._arrivals), stage, takes)
            insort(self._waiting, ticket)
            self._give_out(has)
        try:
            ticket.called.wait()
            if not ticket.has_slot:
                raise Stopped(self._closed)
            yield
        finally:
            with self._guard:
                if ticket.has_slot:
                    self._busy[stage] -= 1
                    self._taken = self._taken.without(takes)
                else:
                    self._waiting.remove(ticket)
                self._give_out(has)

    def _give_out(self, has: Resources) -> None:
        """Call whoever has a slot now: each by itself, since with thousands waiting all must not wake for one."""
        while self._closed is None and (ticket := self._next(has)) is not None:
            self._waiting.remove(ticket)
            self._busy[ticket.stage] += 1
            self._taken += ticket.takes
            ticket.has_slot = True
            ticket.called.set()

    def _next(self, has: Resources) -> _Ticket | None:
        busy = self._busy.total()
        if busy >= self._places:
            return None
        short: set[str] = set()  # of which a more urgent item waits for more
        for ticket in self._waiting:
            if self._busy[ticket.stage] >= self._limits[ticket.stage] or short & ticket.takes.wanted():
                continue
            lacking = (self._taken + ticket.takes).beyond(has) if busy else set()
            if not lacking:
                return ticket
            short |= lacking & ticket.takes.wanted()
        return None
