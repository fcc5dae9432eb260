"""What of a run is on the machines of a Ray cluster: workers, and who works at which item.

A worker starts the same process as on a machine by itself (worker.py) and passes jobs and answers on. It refuses an item
that it would make with other code, or other libraries, than the run that sent it. Knows nothing of Ray: its classes are
made actors by ray_pool.py.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from storage.remote.address import working_folder
from storage.store import canonical, digest_bytes
from tasks.engine.graph import declared_elsewhere
from tasks.engine.item import code_of, library_version
from tasks.engine.worker import StageWorker

WORKER = "tasks.engine.worker:serve"
FURTHER = ("tasks.engine.launch:serve_launched",)
"""The code that a worker's process runs whatever its item is."""
LEASE_S = 30.0
"""How long a claim lasts after its run was last heard of."""
IN_STORE = ("scratch", "events")
"""What of a job lies in the folder of its store, which is another on each machine where the store is a bucket."""


class NodeWorker:
    """A worker process on this node, for the items of one kind."""

    def __init__(self, pool: str, store: str, raw: str, environment: dict[str, str], forks: bool):
        self._host = socket.gethostname()
        self._store = working_folder(store)
        self._worker = StageWorker(
            f"{pool}@{self._host}", self._store, Path(raw), environment, forks, watched=True
        )

    def place(self) -> str:
        """The node's name."""
        return self._host

    def answers(self, job: dict) -> Iterator[dict]:
        """As a StageWorker gives them; {"other": what this node would make it with} where that is not the run's."""
        here = made_with(job)
        if digest_of(here) != job["made_with"]:
            yield {"other": here}
            return
        placed = job | {name: str(self._store / job[name]) for name in IN_STORE if job[name] is not None}
        for answer in self._worker.answers(placed):
            # Killed by somebody or for want of memory: on another node it may come out right.
            yield answer | {"passing": True} if answer.get("ended") == -signal.SIGKILL else answer


class Claims:
    """Which run works at which item of a store. Times are this process's own, whatever the runs' clocks say."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[str, float]] = {}

    def take(self, claim: str, holder: str) -> bool:
        """Whether the holder has the claim now: it was free, or its own."""
        now = time.monotonic()
        other, until = self._held.get(claim, (holder, now))
        if other != holder and now < until:
            return False
        self._held[claim] = (holder, now + LEASE_S)
        return True

    def renew(self, claims: Iterable[str], holder: str) -> None:
        """The holder lives, and holds these: it gets back what a restart of this process has forgotten."""
        for claim in claims:
            self.take(claim, holder)

    def free(self, claim: str, holder: str) -> None:
        """The holder has done with the claim."""
        if self._held.get(claim, ("", 0.0))[0] == holder:
            del self._held[claim]


def made_with(job: dict) -> dict[str, str]:
    """What this machine would make a job's item with, by name: functions and their digests, libraries and their versions."""
    declared_elsewhere(job["stages"])
    return (
        code_of(WORKER, FURTHER)
        | code_of(job["function"], tuple(job["code"]))
        | {name: library_version(name) for name in job["libraries"]}
    )


def digest_of(made: dict[str, str]) -> str:
    return digest_bytes(canonical(made))
