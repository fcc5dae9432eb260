"""How much of a GPU vLLM asks for. Imports neither torch nor vLLM."""

from __future__ import annotations

from pathlib import Path

from model.generation.settings import EngineArgs

SPARE = 4e9
"""Bytes that a step's activations, CUDA graphs and CUDA itself take beside weights and cache."""
MOST = 0.92
"""vLLM's own share."""


def memory_share(args: EngineArgs, weights: int, total: int) -> float | None:
    """`gpu_memory_utilization` for a GPU of `total` bytes, where the model's files have `weights`; None: vLLM's own.

    What the settings say; else, where they say how large the cache is, what that, the weights and a step come to. vLLM
    does not start unless so much is free, and by itself asks for nearly all even then.
    """
    if args.gpu_memory_utilization is not None or args.kv_cache_memory_bytes is None:
        return args.gpu_memory_utilization
    needed = weights / args.tensor_parallel_size + args.kv_cache_memory_bytes + SPARE
    return round(min(MOST, needed / total), 3)


def weight_bytes(folder: Path) -> int:
    """Bytes of a model's weights as they lie in its folder."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
