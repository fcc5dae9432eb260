"""What an item takes of the machine while it runs, and what the machine has: GPUs, memory, cores.

Knows nothing of who gets what (slots.py), of which GPU it is (gpus.py), or of what an item does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from model.host_memory import free_host_memory
from model.zoo.resolve import cached_folder
from tasks.engine.declaration import Weights
from tasks.engine.item import Item
from tasks.settings import RunSettings, Settings

GB = 1e9
PROCESS_GB, TORCH_GB = 0.3, 1.0
"""Memory of a stage's process beside weights: with Parquet alone, and with torch and what a batch takes."""
ON_CPU, ON_GPU = 2.0, 1.0
"""Times the weights' files: on a CPU they are computed with in a wider type, beside what is trained; on their way to a GPU
they pass through."""


@dataclass(frozen=True)
class Resources:
    """gpus and cores are counted, memory is in GB (10^9 bytes)."""

    gpus: int = 0
    memory_gb: float = 0.0
    cores: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.gpus + other.gpus, self.memory_gb + other.memory_gb, self.cores + other.cores)

    def without(self, other: Resources) -> Resources:
        """What is left when `other` is given back."""
        return Resources(self.gpus - other.gpus, self.memory_gb - other.memory_gb, self.cores - other.cores)

    def beyond(self, limit: Resources) -> set[str]:
        """The kinds of which this is more than `limit`."""
        return {kind for kind in KINDS if getattr(self, kind) > getattr(limit, kind)}

    def wanted(self) -> set[str]:
        """The kinds of which this is any."""
        return {kind for kind in KINDS if getattr(self, kind)}


KINDS = ("gpus", "memory_gb", "cores")
WITHOUT_LIMIT = Resources(2**31, math.inf, 2**31)


def machine(settings: RunSettings, gpus: int) -> Resources:
    """What items may take together: what is free when it is asked, unless the settings say less."""
    memory = free_host_memory() / GB if settings.memory_gb is None else settings.memory_gb
    return Resources(gpus, memory, len(os.sched_getaffinity(0)))


def taken_by(item: Item, settings: Settings, has: Resources) -> Resources:
    """What an item takes of a machine that has so much.

    Where there are GPUs an item whose stage computes takes its own and one core; without them, the threads of its
    processes. Any other takes one core. More than the machine has is never asked for. vLLM has a process of its own, through
    which the weights pass once more.
    """
    run, stage = settings.run, item.stage
    wanted = stage.gpus_of(settings)
    if not wanted:
        return Resources(0, PROCESS_GB, 1)
    weights = _weights_gb(value for value in item.arguments.values() if isinstance(value, Weights))
    if has.gpus:
        processes = wanted + (1 if stage.vllm(settings) else 0)
        return Resources(min(wanted, has.gpus), processes * (TORCH_GB + ON_GPU * weights), 1)
    processes = run.processes if stage.trains else 1
    cores = processes * (run.threads or has.cores)
    return Resources(0, processes * (TORCH_GB + ON_CPU * weights), min(cores, has.cores))


def _weights_gb(weights: Iterable[Weights]) -> float:
    """What weights come to as they lie on this machine; nothing for those that a server has, or that are not fetched yet."""
    return sum(_size(cached_folder(named.name)) for named in weights if not named.served) / GB


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
