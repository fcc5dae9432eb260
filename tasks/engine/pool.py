"""Where the items of one run are worked on: a runner's workers, started when first needed, kept for the next item, ended
with their stage.

`Pool` is what every runner has in common and what a session sees of it; `WorkerPool` is the one of this machine, whose
workers are child processes. A worker that computes on a GPU holds it from its start to its end. Knows nothing of keys,
records or Prefect.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from storage.store import Ref, Store
from tasks.engine.declaration import Stage
from tasks.engine.gpus import Gpus, Held
from tasks.engine.item import Item
from tasks.engine.jobs import LineCallback, Progress, ignore_line, job_of, outcome
from tasks.engine.preflight import check_accelerator
from tasks.engine.resources import Resources, machine
from tasks.engine.stopping import Stopped
from tasks.engine.worker import NO_GPU, StageWorker
from tasks.settings import RunSettings

SHARED = "shared"
LOOK_S = 0.5
"""How often somebody who waits for a GPU, or a place, that another run holds looks again."""
NO_GPUS = Gpus()
NOTHING = Resources()


class Worker(Protocol):
    """A process somewhere that runs items, one after the other."""

    def answers(self, job: dict) -> Iterator[dict]:
        """Run a job's item and give the answers to it as they come (jobs.py)."""

    def close(self) -> None:
        """End it; it is not at work."""

    def kill(self) -> None:
        """End it with all it started, at once, from any thread; a second call does nothing."""


class Kind(NamedTuple):
    """Workers that can stand for each other: of one stage, or shared, and holding the same resources."""

    name: str
    takes: Resources


class Pool(ABC):
    """Workers over one store and raw root. Used from several threads.

    environment: what the workers' processes are given besides their machine's.
    """

    def __init__(self, settings: RunSettings, store: Path, raw: Path, environment: dict[str, str]):
        self.settings, self.store, self.raw = settings, store, raw
        threads = {} if settings.threads is None else {"OMP_NUM_THREADS": str(settings.threads)}
        self.environment = {**environment, **threads}
        self._idle: dict[Kind, list[Worker]] = defaultdict(list)
        self._all: list[Worker] = []
        self._guard = threading.Lock()
        self._closed: str | None = None

    # What a runner is -------------------------------------------------------------------------------------

    @abstractmethod
    def check(self) -> tuple[str, ...]:
        """What it computes on, in a line each. Raises InputError where that will not do."""

    @property
    @abstractmethod
    def machine(self) -> Resources:
        """What there is where one item runs, at most."""

    @property
    @abstractmethod
    def total(self) -> Resources:
        """What items may take together."""

    @abstractmethod
    def alone_at(self, store: Store, key: str, meanwhile: Callable[[], None]) -> AbstractContextManager[None]:
        """Within the block no other run works at the key's item. meanwhile: called again and again while one does; an error
        that it raises ends the waiting."""

    @abstractmethod
    def _kind(self, stage: Stage, takes: Resources) -> Kind:
        """Which workers an item of the stage can have."""

    @abstractmethod
    def _started(self, kind: Kind, on_line: LineCallback) -> Worker:
        """A new worker, listed among `_all`. Raises Stopped once the pool is closed."""

    def _job(self, item: Item, scratch: Path, rows_anew: bool) -> dict:
        return job_of(item, self.store, self.raw, self.settings, scratch, rows_anew)

    # What all have in common ------------------------------------------------------------------------------

    def run(
        self,
        item: Item,
        scratch: Path,
        progress: Progress,
        on_line: LineCallback = ignore_line,
        rows_anew: bool = False,
        takes: Resources = NOTHING,
    ) -> tuple[Ref, ...]:
        """Run one item in a worker that is free, or in a new one. Raises StageFailed; Stopped once the pool is closed.

        rows_anew: see job_of; takes: what the item takes of the machine.
        """
        kind = self._kind(item.stage, takes)
        worker = self._idle_worker(kind) or self._started(kind, on_line)
        try:
            job = self._job(item, scratch, rows_anew)
            outputs = outcome(job, worker.answers(job), progress, on_line)
        except BaseException as error:
            worker.kill()
            if self._closed is not None and isinstance(error, Exception):
                raise Stopped(self._closed) from error
            raise
        with self._guard:
            self._idle[kind].append(worker)
        return outputs

    def release(self, stage: str) -> None:
        """End a settled stage's own workers, so that their memory goes back."""
        with self._guard:
            kinds = [kind for kind in self._idle if kind.name == stage]
            workers = [worker for kind in kinds for worker in self._idle.pop(kind)]
        for worker in workers:
            worker.close()

    def close(self, why: str = "the run has ended") -> None:
        """End every worker at once, with the items they work on, and start no more."""
        with self._guard:
            self._closed = self._closed or why
            workers = list(self._all)
        for worker in workers:
            worker.kill()

    def _shares(self, stage: Stage) -> bool:
        """Whether the stage uses workers that stages share to import their libraries once.

        Where there are GPUs none is shared: what has looked for one must not be forked.
        """
        return self.settings.share_workers and not stage.own_process and not self.machine.gpus

    def _idle_worker(self, kind: Kind) -> Worker | None:
        with self._guard:
            self._check_open()
            return self._idle[kind].pop() if self._idle[kind] else None

    def _check_open(self) -> None:
        if self._closed is not None:
            raise Stopped(self._closed)

    def _end_one_that_waits(self, which: Callable[[Kind], bool]) -> bool:
        """End an idle worker of such a kind; whether there was one."""
        with self._guard:
            kind = next((kind for kind, workers in self._idle.items() if workers and which(kind)), None)
            found = None if kind is None else self._idle[kind].pop(0)
        if found is not None:
            found.close()
        return found is not None


class WorkerPool(Pool):
    """The runner of this machine. gpus: the machine's."""

    def __init__(
        self,
        settings: RunSettings,
        store: Path,
        raw: Path,
        environment: dict[str, str],
        gpus: Gpus = NO_GPUS,
    ):
        super().__init__(settings, store, raw, environment)
        self.gpus = gpus

    def check(self) -> tuple[str, ...]:
        return check_accelerator(self.settings)

    @cached_property
    def machine(self) -> Resources:  # type: ignore[override]
        """As it was when it was first asked for, as the run began."""
        return machine(self.settings, len(self.gpus.names))

    @property
    def total(self) -> Resources:
        return self.machine

    def alone_at(self, store: Store, key: str, meanwhile: Callable[[], None]) -> AbstractContextManager[None]:
        return store.lock(key, meanwhile=meanwhile)

    def _kind(self, stage: Stage, takes: Resources) -> Kind:
        return Kind(SHARED if self._shares(stage) else stage.name, Resources(gpus=takes.gpus))

    def _started(self, kind: Kind, on_line: LineCallback) -> Worker:
        gpus = self._held(kind.takes.gpus, on_line)
        with self._guard:
            if self._closed is not None:
                gpus.release()
            self._check_open()
            forks = kind.name == SHARED
            worker = StageWorker(kind.name, self.store, self.raw, self.environment, forks, gpus)
            self._all.append(worker)
        return worker

    def _held(self, count: int, on_line: LineCallback) -> Held:
        """So many GPUs: free ones, or those of a worker that waits for its stage's next item; else another run's, later."""
        told = False
        while count:
            self._check_open()
            held = self.gpus.try_hold(count)
            if held is not None:
                return held
            if not self._end_one_that_waits(lambda kind: kind.takes.gpus > 0):
                if not told:
                    on_line(
                        f"waits for {count} of the GPUs {', '.join(self.gpus.names)}: another run holds them"
                    )
                told = True
                time.sleep(LOOK_S)
        return NO_GPU
