"""What a training will hold in memory, told before anything is computed: weights, gradients, optimizer.

These follow from the sizes of the weights. The activations are measured and added: what the first forward keeps for
its backward, scaled by tokens to the longest part of any step. Temporary tensors are not counted. Knows nothing of losses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, UntypedStorage, nn
from torch.distributed.tensor import DTensor

from model.branches import attention_form
from model.host_memory import free_host_memory

GB = 1e9


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, by what they hold. Frozen and trained weights are there already, the rest is yet to come."""

    frozen_weights: int
    trained_weights: int
    gradients: int
    fp32_masters: int
    adam_moments: int
    best_copy: int
    activations: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def to_come(self) -> int:
        """What training takes beside the weights."""
        return self.total - self.frozen_weights - self.trained_weights


def estimate(
    parameters: Mapping[str, Tensor], models: Iterable[nn.Module], accumulation: int
) -> MemoryEstimate:
    """All but the activations. parameters: what is trained; models: all modules that are in memory meanwhile."""
    trained = _storages(parameters.values())
    held = _storages(tensor for model in models for tensor in (*model.parameters(), *model.buffers()))
    numbers = sum(p.numel() for p in parameters.values())
    own = sum(p.nbytes for p in parameters.values())
    # A part's gradients stand beside those they are added to, unless they become them.
    beside = sum(p.nbytes for p in parameters.values() if accumulation > 1 or p.dtype != torch.float32)
    return MemoryEstimate(
        frozen_weights=sum(held[place].nbytes() for place in held.keys() - trained.keys()),
        trained_weights=own,
        gradients=4 * numbers + beside,
        fp32_masters=4 * numbers,
        adam_moments=8 * numbers,
        best_copy=own,
    )


class TrainingMemory:
    """What a training needs against what there is to be had."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        models: Sequence[nn.Module],
        accumulation: int,
        longest: int,
        processes: int = 1,
        limit: int | None = None,
        recomputed: bool = False,
    ):
        """longest: tokens of the longest part of any step; limit: bytes beside the weights, None: `free_memory`;
        recomputed: layers keep their inputs alone (model/recompute.py)."""
        weights = (*parameters.values(), *(t for m in models for t in (*m.parameters(), *m.buffers())))
        self._weights, self._longest, self._is_measured = _storages(weights), longest, False
        self.needed = estimate(parameters, models, accumulation)
        device = next(iter(parameters.values())).device
        self._form = (
            f"{attention_form(device)}, {'layer inputs alone' if recomputed else 'all activations'} kept"
        )
        self.free = free_memory(device, processes) if limit is None else limit

    @property
    def short(self) -> int:
        """Bytes that are missing; not above zero where it fits."""
        return self.needed.to_come - self.free

    def line(self) -> str:
        """What it comes to, in one short line."""
        return (
            f"needs {_size(self.needed.to_come)} beside {self._weights_size()} of weights ({self._a_token()}{self._form}); "
            f"{_size(self.free)} are free"
        )

    def _a_token(self) -> str:
        """Activations of a token of the longest part, where they are known."""
        return (
            f"{_size(self.needed.activations // max(1, self._longest))} a token, "
            if self._is_measured
            else ""
        )

    def account(self) -> str:
        """The same with every part; it says so where the activations are not known yet."""
        shown = [f.name for f in fields(self.needed) if self._is_measured or f.name != "activations"]
        parts = ", ".join(f"{name.replace('_', ' ')} {_size(getattr(self.needed, name))}" for name in shown)
        unknown = f"; {self._form}" if self._is_measured else "; activations come on top"
        return (
            f"training needs about {_size(self.needed.total)} ({parts}{unknown}); beside the weights "
            f"{_size(self.needed.to_come)}, of {_size(self.free)} that are free"
        )

    def _weights_size(self) -> str:
        return _size(self.needed.frozen_weights + self.needed.trained_weights)

    @contextmanager
    def watching(self, tokens: int) -> Iterator[None]:
        """Measures the activations of the forward within it, of a part of `tokens` tokens; only the first time.

        The tensors go through unchanged, so what is computed is the same.
        """
        if self._is_measured:
            yield
            return
        self._is_measured, kept = True, {}

        def note(tensor: Tensor) -> Tensor:
            kept.update(_storages([tensor]))
            return tensor.detach()  # the tensor itself would hold on to its own graph

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            yield
        # Sizes as they are now: shards that were put together for a layer are given back after it.
        measured = sum(kept[place].nbytes() for place in kept.keys() - self._weights.keys())
        activations = round(measured * self._longest / max(1, tokens))
        self.needed = replace(self.needed, activations=activations)


def free_memory(device: torch.device, processes: int = 1) -> int:
    """Bytes to be had on a GPU, or of this machine's memory and swap within the container's limit.

    processes: how many share the machine; a GPU is one process's own.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return free_host_memory(processes)


def _storages(tensors: Iterable[Tensor]) -> dict[int, UntypedStorage]:
    """What the tensors lie in, of a sharded one this process's shard; views of one storage are the same."""
    local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
    return {storage._cdata: storage for storage in (tensor.untyped_storage() for tensor in local)}


def _size(size: int) -> str:
    """Bytes in the unit that shows them: "640 kB", "12 MB", "23.4 GB"."""
    for unit, amount in (("GB", GB), ("MB", 1e6), ("kB", 1e3)):
        if abs(size) >= amount:
            return f"{size / amount:.3g} {unit}"
    return f"{size} bytes"
