"""The runner of a Ray cluster: every worker is an actor that holds what its items take of its node's GPUs, memory and cores.

What travels is a job (jobs.py) and its answers, all of it JSON; plans and records stay with the run. A run that ends in any
way takes its actors along, and each of them its processes; an item whose worker is lost is run by another. Which run works
at which item is known to one actor of the cluster (ray_node.Claims), to no file. Ray is imported when a run first needs it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import ModuleType

from storage.errors import InputError
from storage.files import store_name
from storage.store import Store
from tasks.engine.declaration import Stage
from tasks.engine.item import Item
from tasks.engine.jobs import LineCallback, StageFailed
from tasks.engine.pool import LOOK_S, SHARED, Kind, Pool, Worker
from tasks.engine.ray_node import IN_STORE, LEASE_S, Claims, NodeWorker, digest_of, made_with
from tasks.engine.resources import GB, Resources
from tasks.settings import RunSettings

NAMESPACE = "empamba"
START_S = 5.0
"""What a worker needs to start where there is room; one that takes longer waits for a place."""
REACH_S = 5.0
"""To reach the cluster's head: Ray itself would try for two minutes."""
_connecting = threading.Lock()


class RayPool(Pool):
    """The runner of the cluster that the settings name."""

    def __init__(self, settings: RunSettings, store: Path, raw: Path, environment: dict[str, str]):
        super().__init__(settings, store, raw, environment)
        self._holder = uuid.uuid4().hex
        self._held: set[str] = set()
        self._ended = threading.Event()

    @cached_property
    def _ray(self) -> ModuleType:
        return connected(self.settings.cluster)

    # What a runner is -------------------------------------------------------------------------------------

    def check(self) -> tuple[str, ...]:
        machine, total, wanted = self.machine, self.total, self.settings.processes
        if self.settings.least_gpu_gb is not None and machine.gpus < wanted:
            raise InputError(
                f"{wanted} GPUs of one machine are needed, and no node of the Ray cluster has more than {machine.gpus}: lower "
                "run.processes, or let a machine with GPUs join (ray start --address=HEAD)"
            )
        nodes, memory = len(self._nodes), f"{total.memory_gb:.0f} GB"
        return (f"Ray cluster: nodes {nodes}, cores {total.cores}, GPUs {total.gpus}, {memory}",)

    @cached_property
    def _nodes(self) -> list[Resources]:
        """The nodes that run anything, as they were when the run began."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        found = [
            Resources(int(has.get("GPU", 0)), has.get("memory", 0.0) / GB, int(has.get("CPU", 0)))
            for has in nodes
        ]
        if not any(node.cores for node in found):
            raise InputError("the Ray cluster has no node with a core: ray start --address=HEAD --num-cpus=N")
        return [node for node in found if node.cores]

    @property
    def machine(self) -> Resources:
        return max(self._nodes, key=lambda node: (node.gpus, node.cores, node.memory_gb))

    @cached_property
    def total(self) -> Resources:  # type: ignore[override]
        together = sum(self._nodes, Resources())
        limit = self.settings.memory_gb
        return together if limit is None else replace(together, memory_gb=limit)

    @contextmanager
    def alone_at(self, store: Store, key: str, meanwhile: Callable[[], None]) -> Iterator[None]:
        claim = f"{store_name(self.store)} {key}"
        while not self._taken(claim):
            meanwhile()
            time.sleep(LOOK_S)
        self._held.add(claim)
        try:
            yield
        finally:
            self._held.discard(claim)
            if self._ray.is_initialized():  # else the cluster is gone, and the claim with it
                self._claims.free.remote(claim, self._holder)

    def _taken(self, claim: str) -> bool:
        with cluster_there(self._ray):
            return self._ray.get(self._claims.take.remote(claim, self._holder))

    @cached_property
    def _claims(self):
        """The cluster's Claims, which outlives this run; what is held there is renewed as long as this run lives."""
        kept = self._ray.remote(Claims).options(
            name="claims", lifetime="detached", get_if_exists=True, num_cpus=0, max_restarts=-1, max_task_retries=-1
        )  # fmt: skip
        claims = kept.remote()

        def renew() -> None:
            while not self._ended.wait(LEASE_S / 6) and self._ray.is_initialized():
                claims.renew.remote(sorted(self._held), self._holder)

        threading.Thread(target=renew, name="claims", daemon=True).start()
        return claims

    def _kind(self, stage: Stage, takes: Resources) -> Kind:
        fits = min(takes.memory_gb, self.machine.memory_gb)
        return Kind(SHARED if self._shares(stage) else stage.name, replace(takes, memory_gb=fits))

    @cached_property
    def _node_worker(self):
        return self._ray.remote(NodeWorker)

    def _started(self, kind: Kind, on_line: LineCallback) -> Worker:
        takes = kind.takes
        form = self._node_worker.options(
            num_cpus=takes.cores, num_gpus=takes.gpus, memory=int(takes.memory_gb * GB), scheduling_strategy="SPREAD"
        )  # fmt: skip
        with self._guard, cluster_there(self._ray):
            self._check_open()
            actor = form.remote(
                kind.name, store_name(self.store), str(self.raw), self.environment, kind.name == SHARED
            )
            worker = RayWorker(self._ray, actor)
            self._all.append(worker)
        told, since = False, time.monotonic()
        while not worker.placed(LOOK_S):
            self._check_open()
            if time.monotonic() - since < START_S or self._end_one_that_waits(lambda other: other != kind):
                continue
            if not told:
                on_line(f"waits for a place in the Ray cluster: {_told(takes)}")
            told = True
        return worker

    def _job(self, item: Item, scratch: Path, rows_anew: bool) -> dict:
        stage = item.stage
        made_by = {
            "code": list(stage.code),
            "libraries": list(stage.libraries),
            "stages": list(self.settings.stages),
        }
        job = super()._job(item, scratch, rows_anew) | made_by
        job |= {name: os.path.relpath(job[name], self.store) for name in IN_STORE}
        return job | {"made_with": digest_of(made_with(job))}

    def close(self, why: str = "the run has ended") -> None:
        self._ended.set()
        super().close(why)


class RayWorker:
    """A worker on some node of the cluster."""

    def __init__(self, ray: ModuleType, actor):
        self._ray, self._actor = ray, actor
        self._place = actor.place.remote()
        self.place = "a node"

    def placed(self, within_s: float) -> bool:
        """Whether it has started by then. Raises StageFailed where it cannot start."""
        if not self._ray.wait([self._place], timeout=within_s)[0]:
            return False
        try:
            self.place = self._ray.get(self._place)
        except self._ray.exceptions.RayError as error:
            raise _not_started(error) from error
        return True

    def answers(self, job: dict) -> Iterator[dict]:
        """Run a job's item and give the answers to it as they come. Raises StageFailed where the worker is lost."""
        with cluster_there(self._ray):
            answers = self._actor.answers.options(num_returns="streaming").remote(job)
        try:
            for answer in answers:
                told = self._ray.get(answer)
                yield self._refused(job, told["other"]) if "other" in told else told
        except self._ray.exceptions.RayError as error:
            raise StageFailed(f"{job['name']}: its worker on {self.place} is lost", passing=True) from error

    def close(self) -> None:
        self.kill()

    def kill(self) -> None:
        if self._ray.is_initialized():  # else the cluster is gone, and the actor with it
            self._ray.kill(self._actor)

    def _refused(self, job: dict, there: dict[str, str]) -> dict:
        """The failure of an item whose node would make it with other code than this run's, or other libraries."""
        here = made_with(job)
        differing = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        why = (
            f"{self.place} has another {differing[0]}{more} than this run: install the same commit and lock on every machine "
            "of the cluster, or take that one out of it (ray stop)"
        )
        return {"failed": why, "usage": True}


@contextmanager
def cluster_there(ray: ModuleType) -> Iterator[None]:
    """For what is asked of the cluster. Raises StageFailed where it is gone."""
    gone = "the Ray cluster is gone{}: start it and run again, which goes on from here"
    if not ray.is_initialized():
        raise StageFailed(gone.format(""))
    try:
        yield
    except ray.exceptions.RayError as error:
        raise StageFailed(gone.format(f" ({_first_line(error)})")) from error


def connected(cluster: str | None) -> ModuleType:
    """Ray, connected to the cluster whose head is at HOST:PORT, or that this machine is a node of. Raises InputError."""
    # Asked for anything once its cluster is gone, Ray would start another one on this machine.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    try:
        import ray
    except ImportError:
        raise InputError(
            "run.runner is ray, and ray is not installed: .venv/bin/pip install -e '.[ray]', here and on every machine of "
            "the cluster"
        ) from None
    _reach(cluster)
    with _connecting:
        if not ray.is_initialized():
            term = signal.getsignal(signal.SIGTERM)
            try:
                ray.init(
                    cluster or "auto", namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise InputError(
                    f"no Ray cluster at {cluster or 'this machine'} ({_first_line(error)}); {START}"
                ) from None
            finally:
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, term)  # Ray has put its own there
    return ray


START = (
    "start one: ray start --head; on each further machine: ray start --address=HEAD:6379 (docs/operations.md)"
)


def _reach(cluster: str | None) -> None:
    """Raises InputError where nobody listens at the address."""
    if cluster is None:
        return
    host, _, port = cluster.rpartition(":")
    try:
        socket.create_connection((host, int(port)), REACH_S).close()
    except OSError as error:
        raise InputError(f"no Ray cluster at {cluster} ({error.strerror or error}); {START}") from None


def _not_started(error: Exception) -> StageFailed:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return StageFailed(
        f"a worker cannot start in the Ray cluster ({lines[-1][:300]}): Empamba is to be installed on every machine of it"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _told(takes: Resources) -> str:
    return f"{takes.cores} cores, {takes.gpus} GPUs, {takes.memory_gb:.1f} GB"
