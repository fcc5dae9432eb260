"""One run over one store: plans, workers, and executing an item so that it is done once, whoever asks.

Knows nothing of Prefect or of what a stage does.
"""

from __future__ import annotations

import shutil
import threading
from collections import defaultdict
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from storage.errors import InputError
from storage.filestat import StatCache
from storage.sample.layout import write_sample
from storage.store import Record, Ref, Store, digest_bytes
from tasks.pipeline import Pipeline, read_raw_files
from tasks.settings import Settings
from tasks.stages.fingerprint import fingerprint
from tasks.stages.planner import Node, StagePlan, plan_all
from tasks.stages.slots import Slots, urgency
from tasks.stages.stage import Item, RawFiles, Stage, fresh_record
from tasks.stages.worker import Progress, StageWorker

SHARED = "shared"
SAMPLE = ("storage.sample.layout:write_sample",)


class Session:
    """Opened for `run` and for `status`. `raw` None stands for the bundled sample corpus."""

    def __init__(
        self,
        settings: Settings,
        profile: str,
        store: Path,
        raw: Path | None,
        rehash: bool = False,
        force: tuple[str, ...] = (),
    ):
        self.store = Store(store)
        self.settings, self.profile = settings, profile
        self.raw = None if raw is None else Path(raw).resolve()
        self.rehash, self.force = rehash, force
        self.pipeline = self._pipeline()
        self._idle: dict[str, list[StageWorker]] = defaultdict(list)
        self._all_workers: list[StageWorker] = []
        self._guard = threading.Lock()
        graph = self.pipeline.graph()
        limits = {node.stage.name: self._workers_of(node.stage) for node in graph}
        self.slots = Slots(settings.run.parallel, limits, urgency(graph))

    # Raw data -----------------------------------------------------------------------------------------

    @cached_property
    def raw_root(self) -> Path:
        """The raw root; for the sample corpus a folder of the store named after what writes it."""
        if self.raw is not None:
            return self.raw
        text = (Path(__file__).resolve().parents[1] / "storage/sample/dialogues.json").read_bytes()
        version = digest_bytes(text + repr(sorted(fingerprint(*SAMPLE).items())).encode())
        return self.store.root / "sample" / version[:12]

    def lay_out_sample(self) -> None:
        """Write the sample corpus where the run reads it, once."""
        if self.raw is None and not self.raw_root.is_dir():
            self.raw_root.parent.mkdir(parents=True, exist_ok=True)
            with self.store.lock("sample"):
                if not self.raw_root.is_dir():
                    write_sample(self.raw_root)
            self.pipeline = self._pipeline()

    def _pipeline(self) -> Pipeline:
        return Pipeline(self.settings, self.profile, self.store, self._raw_files(), self.raw_root)

    def _raw_files(self) -> tuple[RawFiles, ...]:
        if self.raw is None and not self.raw_root.is_dir():
            return (RawFiles(dataset="sample", folder=".", files={}),)
        cache = StatCache(self.store.root / "files.sqlite", rehash=self.rehash)
        files = read_raw_files(self.raw_root, cache)
        try:
            cache.save()
        except OSError:
            pass  # a read-only store: the next look hashes again
        return files

    # Planning -----------------------------------------------------------------------------------------

    def plan(self, until: str | None = None) -> list[StagePlan]:
        """The plan of the stages that `until` needs (all, without it), running nothing."""
        return plan_all(self.store, self.graph(until))

    def graph(self, until: str | None = None):
        """The nodes that `until` needs, itself included, in order. `until` may name a stage or its parts."""
        graph = self.pipeline.graph()
        graph = [replace(node, forced=node.stage.name in self._forced) for node in graph]
        if until is None:
            return graph
        wanted = _named(graph, until)
        for node in reversed(graph):
            if node.stage.name in wanted:
                wanted |= set(node.needs)
        return [n for n in graph if n.stage.name in wanted]

    @cached_property
    def _forced(self) -> set[str]:
        graph = self.pipeline.graph()
        return {name for stage in self.force for name in _named(graph, stage)}

    def forget_rows(self) -> None:
        """Drop the finished rows of forced stages, so that their items do all their work again."""
        for stage in self._forced:
            self.store.drop_rows(stage)

    # Executing ----------------------------------------------------------------------------------------

    def execute(self, item: Item, progress: Progress) -> list[Ref]:
        """Run one item in a worker process and commit it; another run that has just done it is believed."""
        parts = item.parts()
        key = item.key(parts)
        stage = item.stage.name
        with self.store.lock(key):
            record, _ = fresh_record(self.store, stage, key)
            if record is None or stage in self._forced:
                self._drop_damaged(stage, key)
                record = Record(
                    stage=stage, label=item.label, key=key, outputs=self._run(item, key, progress)
                )
                self.store.commit(record, parts)
                shutil.rmtree(self._scratch(key), ignore_errors=True)
            else:
                self.store.remember(stage, item.label, key, parts)
        return list(record.outputs)

    def _scratch(self, key: str) -> Path:
        return self.store.root / "scratch" / key

    def _run(self, item: Item, key: str, progress: Progress) -> tuple[Ref, ...]:
        with self._guard:
            idle = self._idle[self._pool_of(item.stage)]
            worker = idle.pop() if idle else self._start(self._pool_of(item.stage))
        try:
            outputs = worker.run(item, progress, self._scratch(key), self.settings.run.checkpoint_s)
        except BaseException:
            worker.kill()
            raise
        with self._guard:
            self._idle[self._pool_of(item.stage)].append(worker)
        return tuple(outputs)

    def _pool_of(self, stage: Stage) -> str:
        """Whose workers a stage uses: its own, or those that stages share to import their libraries once."""
        return SHARED if self.settings.run.share_workers and not stage.own_process else stage.name

    def _start(self, pool: str) -> StageWorker:
        threads = self.settings.run.threads
        environment = {"HF_HUB_OFFLINE": "1"} if self.profile != "paper" else {}
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        worker = StageWorker(pool, self.store.root, self.raw_root, environment, forks=pool == SHARED)
        self._all_workers.append(worker)
        return worker

    def _drop_damaged(self, stage: str, key: str) -> None:
        """What an old record of this key names and is not whole is removed, so that it is written again."""
        old = self.store.record(stage, key)
        for ref in old.outputs if old else ():
            if not self.store.holds(ref, rehash=True):
                self.store.drop(ref)

    def _workers_of(self, stage: Stage) -> int:
        return self.settings.run.feature_workers if stage.name == "features" else stage.workers

    def release(self, stage: str) -> None:
        """End a settled stage's own workers, so that their memory goes back."""
        with self._guard:
            workers = self._idle.pop(stage, [])
        for worker in workers:
            worker.close()

    def close(self) -> None:
        for worker in self._all_workers:
            worker.kill()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _named(graph: list[Node], name: str) -> set[str]:
    """The stages that `name` means: a stage, or all parts of one. InputError where there is none."""
    found = {n.stage.name for n in graph if n.stage.name == name or n.stage.name.startswith(f"{name}.")}
    if not found:
        names = ", ".join(dict.fromkeys(n.stage.name.split(".")[0] for n in graph))
        raise InputError(f"no stage {name!r}: give one of {names}")
    return found
