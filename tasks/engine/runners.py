"""The runners that a run's settings can name. Knows nothing of how one works."""

from __future__ import annotations

from pathlib import Path

from tasks.engine.gpus import Gpus
from tasks.engine.pool import Pool, WorkerPool
from tasks.engine.preflight import gpu_cards, gpu_names
from tasks.engine.ray_pool import RayPool
from tasks.settings import RunSettings


def pool_of(settings: RunSettings, store: Path, raw: Path, environment: dict[str, str]) -> Pool:
    """A pool of the settings' runner, without a worker yet."""
    if settings.runner == "ray":
        return RayPool(settings, store, raw, environment)
    gpus = Gpus(lambda: gpu_names(settings), cards=lambda: gpu_cards(settings))
    return WorkerPool(settings, store, raw, environment, gpus)
