"""The generation engine of a process that asks a model for texts. Knows nothing of what is asked of it."""

from __future__ import annotations

import atexit
from functools import cache

from model.generation.client import GenerationEngine
from model.generation.settings import EngineSettings


@cache
def process_engine(settings: EngineSettings) -> GenerationEngine:
    """One engine for the life of this process; it ends with it."""
    started = GenerationEngine(settings)
    atexit.register(started.close)
    return started
