"""The worker processes of one run: started when first needed, kept for the next item, ended with their stage.

Knows nothing of keys, records or Prefect.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path

from storage.store import Ref
from tasks.engine.declaration import Stage
from tasks.engine.item import Item
from tasks.engine.stopping import Stopped
from tasks.engine.worker import LineCallback, Progress, StageWorker, ignore_line
from tasks.settings import RunSettings

SHARED = "shared"


class WorkerPool:
    """Workers over one store and raw root. Used from several threads.

    environment: what the workers' processes are given besides this one's.
    """

    def __init__(self, settings: RunSettings, store: Path, raw: Path, environment: dict[str, str]):
        self.settings, self.store, self.raw = settings, store, raw
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
    ) -> tuple[Ref, ...]:
        """Run one item in a worker that is free, or in a new one. Raises StageFailed; Stopped once the pool is closed.

        rows_anew: see StageWorker.run.
        """
        name = self._name(item.stage)
        with self._guard:
            if self._closed is not None:
                raise Stopped(self._closed)
            worker = self._idle[name].pop() if self._idle[name] else self._start(name)
        try:
            settings = self.settings
            outputs = worker.run(
                item, progress, scratch, settings.checkpoint_s, on_line, settings.processes, settings.launch_config, rows_anew,
                settings.silent_limit_s,
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
        """Whose workers a stage uses: its own, or those that stages share to import their libraries once."""
        return SHARED if self.settings.share_workers and not stage.own_process else stage.name

    def _start(self, name: str) -> StageWorker:
        worker = StageWorker(name, self.store, self.raw, self.environment, forks=name == SHARED)
        self._all.append(worker)
        return worker

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
