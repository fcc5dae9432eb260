"""One run over one store: plans, workers, and executing an item so that it is done once, whoever asks.

Knows nothing of Prefect or of what a stage does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from storage.errors import InputError
from storage.filestat import StatCache
from storage.store import Record, Ref, Store, digest_bytes
from tasks.display import Waiting
from tasks.engine.fingerprint import fingerprint
from tasks.engine.planner import Node, StagePlan, plan_all
from tasks.engine.pool import WorkerPool
from tasks.engine.slots import Slots, urgency
from tasks.engine.stage import Item, RawFiles, Stage, fresh_record
from tasks.engine.worker import Progress, Tell, unheard
from tasks.pipeline import Pipeline, read_raw_files
from tasks.settings import Settings

SAMPLE = ("storage.sample.layout:write_sample",)


class Session:
    """Opened for `run` and for `status`. `raw` None stands for the bundled sample corpus.

    workers: where items run; processes of the session's own, unless it is handed some of another. reading: told how
    many of the raw files have been looked at, of how many.
    """

    def __init__(
        self,
        settings: Settings,
        profile: str,
        store: Path,
        raw: Path | None,
        rehash: bool = False,
        force: tuple[str, ...] = (),
        workers: WorkerPool | None = None,
        reading: Callable[[int, int], None] = lambda done, total: None,
    ):
        self._stats = StatCache(Path(store).resolve() / "files.sqlite", rehash=rehash)
        self.store = Store(store, self._stats)
        self.settings, self.profile = settings, profile
        self.raw = None if raw is None else Path(raw).resolve()
        self.force, self._reading = force, reading
        self.pipeline = self._pipeline()
        offline = {"HF_HUB_OFFLINE": "1"} if profile != "paper" else {}
        self._handed = workers is not None
        self.workers = workers or WorkerPool(settings.run, self.store.root, self.raw_root, offline)
        graph = self.pipeline.graph()
        limits = {node.stage.name: self._workers_of(node.stage) for node in graph}
        self.slots = Slots(settings.run.parallel, limits, urgency(graph))

    # Raw data -----------------------------------------------------------------------------------------

    @cached_property
    def raw_root(self) -> Path:
        """The raw root; for the sample corpus a folder of the store named after what writes it."""
        if self.raw is not None:
            return self.raw
        text = (Path(__file__).resolve().parents[2] / "storage/sample/dialogues.json").read_bytes()
        version = digest_bytes(text + repr(sorted(fingerprint(*SAMPLE).items())).encode())
        return self.store.root / "sample" / version[:12]

    def lay_out_sample(self) -> None:
        """Write the sample corpus where the run reads it, once."""
        if self.raw is None and not self.raw_root.is_dir():
            from storage.sample.layout import write_sample  # the actor, which only a first run needs

            self.raw_root.parent.mkdir(parents=True, exist_ok=True)
            with self.store.lock("sample"), Waiting("writing the sample corpus"):
                if not self.raw_root.is_dir():
                    write_sample(self.raw_root)
            self.pipeline = self._pipeline()

    def _pipeline(self) -> Pipeline:
        return Pipeline(self.settings, self.profile, self.store, self._raw_files(), self.raw_root)

    def _raw_files(self) -> tuple[RawFiles, ...]:
        if self.raw is None and not self.raw_root.is_dir():
            return (RawFiles(dataset="sample", folder=".", files={}),)
        files = read_raw_files(self.raw_root, self._stats, self._reading)
        self._save_stats()
        return files

    def _save_stats(self) -> None:
        try:
            self._stats.save()
        except OSError:
            pass  # a read-only store: the next look hashes again

    # Planning -----------------------------------------------------------------------------------------

    def plan(self, until: str | None = None) -> list[StagePlan]:
        """The plan of the stages that `until` needs (all, without it), running nothing."""
        plans = plan_all(self.store, self.graph(until))
        self._save_stats()
        return plans

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

    def execute(self, item: Item, progress: Progress, tell: Tell = unheard) -> list[Ref]:
        """Run one item in a worker process and commit it; another run that has just done it is believed."""
        parts = item.parts()
        key = item.key(parts)
        stage = item.stage.name
        with self.store.lock(key):
            record, _ = fresh_record(self.store, stage, key)
            if record is None or stage in self._forced:
                self._drop_damaged(stage, key)
                outputs = self.workers.run(item, self._scratch(key), progress, tell)
                record = Record(stage=stage, label=item.label, key=key, outputs=outputs)
                self.store.commit(record, parts)
                shutil.rmtree(self._scratch(key), ignore_errors=True)
            else:
                self.store.remember(stage, item.label, key, parts)
        return list(record.outputs)

    def _scratch(self, key: str) -> Path:
        return self.store.root / "scratch" / key

    def _drop_damaged(self, stage: str, key: str) -> None:
        """What an old record of this key names and is not whole is removed, so that it is written again."""
        old = self.store.record(stage, key)
        for ref in old.outputs if old else ():
            if not self.store.holds(ref, rehash=True):
                self.store.drop(ref)

    def _workers_of(self, stage: Stage) -> int:
        return self.settings.run.feature_workers if stage.name == "features" else stage.workers

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_) -> None:
        if not self._handed:
            self.workers.close()


def _named(graph: list[Node], name: str) -> set[str]:
    """The stages that `name` means: a stage, or all parts of one. InputError where there is none."""
    found = {n.stage.name for n in graph if n.stage.name == name or n.stage.name.startswith(f"{name}.")}
    if not found:
        names = ", ".join(dict.fromkeys(n.stage.name.split(".")[0] for n in graph))
        raise InputError(f"no stage {name!r}: give one of {names}")
    return found
