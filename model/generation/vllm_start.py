"""vLLM started for rows of one LLM, in an environment of its own. Imports vLLM only where it is started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from model.generation.client import EngineError, child_environment
from model.generation.settings import EngineArgs

if TYPE_CHECKING:
    from model.generation.vllm_rows import VllmRows


def vllm_rows(
    folder: Path, args: EngineArgs, stop_ids: Sequence[int], adapters: Sequence[Path] = ()
) -> VllmRows:
    """As VllmRows; EngineError too where vLLM is not installed."""
    if not find_spec("vllm"):
        raise EngineError("vLLM is not installed here; take engine transformers, or install it")
    # Read when vLLM is imported, and by the processes that it starts.
    with _environment(child_environment(None) | {"VLLM_LOGGING_LEVEL": "ERROR"}):
        from model.generation.vllm_rows import VllmRows

        return VllmRows(folder, args, stop_ids, adapters)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """This process's environment within the block; whatever is done to it there is undone."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
