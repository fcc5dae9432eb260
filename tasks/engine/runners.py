"""The runners that a run's settings can name, and the GPUs that they have. Knows nothing of how one works."""

from __future__ import annotations

from pathlib import Path

from storage.errors import InputError
from tasks.engine.gpus import Gpus, Held
from tasks.engine.pool import Pool, WorkerPool
from tasks.engine.preflight import accelerator, gpu_cards, gpu_names, name_fault
from tasks.engine.ray_pool import RayPool
from tasks.settings import RunSettings


def pool_of(settings: RunSettings, store: Path, raw: Path, environment: dict[str, str]) -> Pool:
    """A pool of the settings' runner, without a worker yet."""
    if settings.runner == "ray":
        return RayPool(settings, store, raw, environment)
    return WorkerPool(settings, store, raw, environment, gpus_of(settings))


def gpus_of(settings: RunSettings) -> Gpus:
    """The GPUs of this machine that the settings let a run have."""
    return Gpus(lambda: gpu_names(settings), cards=lambda: gpu_cards(settings))


def held_to_talk(settings: RunSettings, count: int) -> Held:
    """So many of this machine's GPUs for what answers people, which takes less than a training; none where there is no GPU.

    Raises InputError, one line, where runs hold them: nobody who talks waits for a training.
    """
    asked = settings.model_copy(update={"least_gpu_gb": None})
    found = accelerator(asked)
    if not found.gpus:
        return Held()
    fault = name_fault(found, asked)
    if fault is not None:
        raise InputError(fault)
    gpus = gpus_of(asked)
    held = gpus.try_hold(count)
    if held is None:
        raise InputError(
            f"{count} of the GPUs {', '.join(gpus.names)} would have to be free, and other runs or talks hold them: wait until "
            "one has ended, or make another visible (CUDA_VISIBLE_DEVICES; empty, the replies are made on the CPU)"
        )
    return held
