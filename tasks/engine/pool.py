"""The worker processes of one run: started when first needed, kept for the next item, ended with their stage.

One that computes on a GPU holds it from its start to its end. Knows nothing of keys, records or Prefect.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from pathlib import Path

from storage.store import Ref
from tasks.engine.declaration import Stage
from tasks.engine.gpus import Gpus, Held
from tasks.engine.item import Item
from tasks.engine.stopping import Stopped
from tasks.engine.worker import NO_GPU, LineCallback, Progress, StageWorker, ignore_line
from tasks.settings import RunSettings

SHARED = "shared"
LOOK_S = 0.5
"""How often somebody who waits for a GPU that another run holds looks again."""
NO_GPUS = Gpus()


class WorkerPool:
    """Workers over one store and raw root. Used from several threads.

    environment: what the workers' processes are given besides this one's. gpus: the machine's.
    """

    def __init__(
        self,
        settings: RunSettings,
        store: Path,
        raw: Path,
        environment: dict[str, str],
        gpus: Gpus = NO_GPUS,
    ):
        self.settings, self.store, self.raw, self.gpus = settings, store, raw, gpus
        threads = {} if settings.threads is None else {"OMP_NUM_THREADS": str(settings.threads)}
        self.environment = {**environment, **threads}
        self._idle: dict[str, list[StageWorker]] = defaultdict(list)
        self._all: list[StageWorker] = []
        self._guard = threading.Lock()
        self._closed: str | None = None

    def run(
        self,
        item: Item,
        scratch: Path,
        progress: Progress,
        on_line: LineCallback = ignore_line,
        rows_anew: bool = False,
        gpus: int = 0,
    ) -> tuple[Ref, ...]:
        """Run one item in a worker that is free, or in a new one. Raises StageFailed; Stopped once the pool is closed.

        rows_anew: see StageWorker.run; gpus: how many the item takes.
        """
        name = self._name(item.stage)
        worker = self._idle_worker(name) or self._start(name, self._held(gpus, on_line))
        try:
            settings = self.settings
            outputs = worker.run(
                item, progress, scratch, settings.checkpoint_s, on_line, settings.processes, settings.launch_config, rows_anew
            )  # fmt: skip
        except BaseException as error:
            worker.kill()
            if self._closed is not None and isinstance(error, Exception):
                raise Stopped(self._closed) from error
            raise
        with self._guard:
            self._idle[name].append(worker)
        return tuple(outputs)

    def _name(self, stage: Stage) -> str:
        """Whose workers a stage uses: its own, or those that stages share to import their libraries once.

        Where there are GPUs none is shared: what has looked for one must not be forked.
        """
        shares = self.settings.share_workers and not stage.own_process and not self.gpus.names
        return SHARED if shares else stage.name

    def _idle_worker(self, name: str) -> StageWorker | None:
        with self._guard:
            self._check()
            return self._idle[name].pop() if self._idle[name] else None

    def _start(self, name: str, gpus: Held) -> StageWorker:
        with self._guard:
            if self._closed is not None:
                gpus.release()
            self._check()
            worker = StageWorker(name, self.store, self.raw, self.environment, name == SHARED, gpus)
            self._all.append(worker)
        return worker

    def _check(self) -> None:
        if self._closed is not None:
            raise Stopped(self._closed)

    def _held(self, count: int, on_line: LineCallback) -> Held:
        """So many GPUs: free ones, or those of a worker that waits for its stage's next item; else another run's, later."""
        told = False
        while count:
            self._check()
            held = self.gpus.try_hold(count)
            if held is not None:
                return held
            if not self._end_one_that_waits():
                if not told:
                    on_line(
                        f"waits for {count} of the GPUs {', '.join(self.gpus.names)}: another run holds them"
                    )
                told = True
                time.sleep(LOOK_S)
        return NO_GPU

    def _end_one_that_waits(self) -> bool:
        """End an idle worker that holds a GPU; whether there was one."""
        with self._guard:
            found = next((w for workers in self._idle.values() for w in workers if w.gpus.names), None)
            for workers in self._idle.values() if found else ():
                if found in workers:
                    workers.remove(found)
        if found is not None:
            found.close()
        return found is not None

    def release(self, stage: str) -> None:
        """End a settled stage's own workers, so that their memory goes back."""
        with self._guard:
            workers = self._idle.pop(stage, [])
        for worker in workers:
            worker.close()

    def close(self, why: str = "the run has ended") -> None:
        """End every worker at once, with the items they work on, and start no more."""
        with self._guard:
            self._closed = self._closed or why
            workers = list(self._all)
        for worker in workers:
            worker.kill()
