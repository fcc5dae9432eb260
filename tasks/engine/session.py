"""One run over one store: plans, workers, and executing an item so that it is done once, whoever asks.

Knows nothing of Prefect or of what a stage does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from storage.errors import InputError
from storage.filestat import StatCache
from storage.remote.opening import open_store
from storage.store import Record, Ref, digest_bytes
from tasks.display import Waiting
from tasks.engine.declaration import RawFiles, Reads, Stage
from tasks.engine.fingerprint import fingerprint
from tasks.engine.graph import Sources, build_graph, declared_elsewhere
from tasks.engine.item import Item, fresh_record
from tasks.engine.jobs import LineCallback, Progress, StageFailed, ignore_line
from tasks.engine.passing import tried
from tasks.engine.planner import Node, StagePlan, plan_all
from tasks.engine.pool import Pool
from tasks.engine.raw_files import read_raw_files
from tasks.engine.resources import taken_by
from tasks.engine.runners import pool_of
from tasks.engine.slots import Slots, urgency
from tasks.engine.stopping import Stop, stopped_by_signals
from tasks.pipeline import STAGES
from tasks.settings import Settings
from tasks.variants import with_variants

SAMPLE = ("storage.sample.layout:write_sample",)


class Session:
    """Opened for `run` and for `status`. raw None: the bundled sample corpus.

    workers: where items run; the settings' runner, with workers of the session's own, unless it is handed some of another. reading: called
    with how much of the raw files has been read, of how much (read_raw_files).
    """

    def __init__(
        self,
        settings: Settings,
        profile: str,
        store: Path,
        raw: Path | None,
        rehash: bool = False,
        force: tuple[str, ...] = (),
        workers: Pool | None = None,
        reading: Callable[[int, int], None] = lambda done, total: None,
    ):
        self._stats = StatCache(Path(store).resolve() / "files.sqlite", rehash=rehash)
        self.store = open_store(store, self._stats, pull=True)
        self.store.refuse_links()
        self.settings, self.profile = settings, profile
        self.raw = None if raw is None else Path(raw).resolve()
        self.force, self._reading = force, reading
        self._raw = self._raw_files()
        offline = {"HF_HUB_OFFLINE": "1"} if settings.run.offline else {}
        self._handed = workers is not None
        self.workers = workers or pool_of(settings.run, self.store.root, self.raw_root, offline)
        graph = self._graph()
        limits = {node.stage.name: self._workers_of(node.stage) for node in graph}
        self.slots = Slots(settings.run.parallel, limits, urgency(graph), lambda: self.workers.total)
        self.stop = Stop()
        self.stop.on_stop(self.slots.close)
        self.stop.on_stop(self.workers.close)

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
        """Write the sample corpus where the run reads it, once, and a listing of it, by which it is checked."""
        if self.raw is not None:
            return
        if not self.raw_root.is_dir():
            from storage.sample.layout import write_sample  # the actor, which only a first run needs

            self.raw_root.parent.mkdir(parents=True, exist_ok=True)
            with self.store.lock("sample"), Waiting("filming the sample corpus", "utterances") as waiting:
                if not self.raw_root.is_dir():
                    write_sample(self.raw_root, progress=waiting.progress)
            self._raw = self._raw_files()
        if not self.store.has_listing(self.raw_root):
            self.store.write_listing(self.raw_root)

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

    def may_run(self, stage: Stage) -> bool:
        """Whether the raw files can give the stage anything to do, as far as their names tell."""
        return stage.may_run(self._raw)

    # Planning -----------------------------------------------------------------------------------------

    def plan(self, until: str | None = None) -> list[StagePlan]:
        """The plan of the stages that `until` needs (all, without it), running nothing."""
        plans = plan_all(self.store, self.graph(until))
        self._save_stats()
        return plans

    def item(self, stage: str, label: str) -> Item:
        """An item by its stage and label, as it follows from what the store holds of the stages before it.

        Raises StageFailed where one of those is stale, or the stage has no such item.
        """
        graph = [replace(node, forced=False) for node in self.graph(stage)]
        plan = next((plan for plan in plan_all(self.store, graph) if plan.stage.name == stage), None)
        if plan is None or plan.state == "unknown":
            raise StageFailed(f"{stage} [{label}]: {plan.reason if plan else 'no such stage'}")
        try:
            return plan.item(label)
        except LookupError as error:
            raise StageFailed(str(error)) from None

    def graph(self, until: str | None = None):
        """The nodes that `until` needs, itself included, in order. `until` may name a stage or its parts."""
        graph = [replace(node, forced=node.stage.name in self._forced) for node in self._graph()]
        if until is None:
            return graph
        wanted = _named(graph, until)
        for node in reversed(graph):
            if node.stage.name in wanted:
                wanted |= set(node.needs)
        return [n for n in graph if n.stage.name in wanted]

    def _graph(self) -> list[Node]:
        sources = Sources(self.settings, self.profile, self.store, self._raw, self.raw_root)
        stages = (*STAGES, *declared_elsewhere(self.settings.run.stages))
        return build_graph(with_variants(stages, self.settings), sources)

    @cached_property
    def _forced(self) -> set[str]:
        graph = self._graph()
        return {name for stage in self.force for name in _named(graph, stage)}

    # Executing ----------------------------------------------------------------------------------------

    def execute(self, item: Item, progress: Progress, on_line: LineCallback = ignore_line) -> list[Ref]:
        """Run one item in a worker process and commit it; if another run has just done it, its record is used.

        Raises StageFailed, and Stopped where the run is stopping.
        """
        parts = item.parts()
        key = item.key(parts)
        stage = item.stage.name
        # Another run may be at the same item for hours: waiting for it, this one still hears that it is to stop.
        with self.workers.alone_at(self.store, key, self.stop.check):
            record, _ = fresh_record(self.store, stage, key)
            if record is None or stage in self._forced:
                self.stop.check()
                self.store.prepare(stage, key, parts)
                record, _ = fresh_record(self.store, stage, key)
            if record is None or stage in self._forced:
                self._drop_damaged(stage, key)
                # A forced item does all its work again; rows of other models, or of other prompts, stay.
                outputs = self._made(item, key, progress, on_line)
                inputs = tuple(sorted(artefacts_of(item.arguments)))
                made = Record(stage=stage, label=item.label, key=key, outputs=outputs, inputs=inputs)
                record = self.store.commit(made, parts)
                if record.outputs != made.outputs:
                    on_line(
                        f"{stage} [{item.label}]: another machine finished it first, with other bytes: they stand"
                    )
                shutil.rmtree(self._scratch(key), ignore_errors=True)
            else:
                self.store.remember(stage, item.label, key, parts)
        return list(record.outputs)

    def _made(self, item: Item, key: str, progress: Progress, on_line: LineCallback) -> tuple[Ref, ...]:
        """What the item puts out, tried again after what can pass."""
        anew, run = item.stage.name in self._forced, self.settings.run
        takes = taken_by(item, self.settings, self.workers.machine)

        def pause(seconds: float, error: Exception) -> None:
            on_line(f"{error}; it is tried again in {seconds:g} s")
            self.stop.wait(seconds)

        return tried(
            lambda: self.workers.run(item, self._scratch(key), progress, on_line, rows_anew=anew, takes=takes),
            run.retries, run.retry_after_s, lambda error: isinstance(error, StageFailed) and error.passing, pause,
        )  # fmt: skip

    def _scratch(self, key: str) -> Path:
        return self.store.root / "scratch" / key

    def _drop_damaged(self, stage: str, key: str) -> None:
        """Remove damaged artefacts that an old record of this key names, so that they are written again."""
        old = self.store.record(stage, key)
        for ref in old.outputs if old else ():
            if not self.store.holds(ref, rehash=True):
                self.store.drop(ref)

    def room_for(self, item: Item) -> AbstractContextManager[None]:
        """Wait until the item may run, and hold what it takes. Raises Stopped where the run is stopping."""
        return self.slots.take(item.stage.name, taken_by(item, self.settings, self.workers.machine))

    def _workers_of(self, stage: Stage) -> int:
        """How many items of the stage may run at once."""
        return Reads(stage.workers).of(self.settings) if isinstance(stage.workers, str) else stage.workers

    def __enter__(self) -> Session:
        self._signals = stopped_by_signals(self.stop)
        self._signals.__enter__()
        return self

    def __exit__(self, *_) -> None:
        self._signals.__exit__(None, None, None)
        if not self._handed:
            self.workers.close()


def artefacts_of(value) -> set[str]:
    """Digests of the artefacts among an item's arguments."""
    if isinstance(value, Ref):
        return {value.digest}
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return set()
    return {digest for inner in value for digest in artefacts_of(inner)}


def _named(graph: list[Node], name: str) -> set[str]:
    """The stages that `name` means: a stage, or all parts of one. InputError where there is none."""
    found = {n.stage.name for n in graph if n.stage.name == name or n.stage.name.startswith(f"{name}.")}
    if not found:
        names = ", ".join(dict.fromkeys(n.stage.name.split(".")[0] for n in graph))
        raise InputError(f"no stage {name!r}: give one of {names}")
    return found
