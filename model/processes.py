"""The processes that train one model together, through accelerate: usually one, which has nobody to ask.

Every process holds the whole model (or its shards of it) and the same rows in the same order; of each step, and of what is
measured, it computes its share, and all take the same step. Knows nothing of losses, optimizers, or of who started the
processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather, pad_across_processes, reduce
from torch import Tensor

from model.device import best_device

SPACE = ord(" ")

Item = TypeVar("Item")


class Processes:
    """This process among those that accelerate's launcher started with it; alone where none did.

    Entering a group takes its GPU as torch's default, or gloo where there is none: the model is loaded after that.
    """

    def __init__(self):
        self.state = PartialState(cpu=best_device().type == "cpu")
        self.count, self.index = self.state.num_processes, self.state.process_index

    @property
    def is_main(self) -> bool:
        """Whether this is the one that shows, writes and answers."""
        return self.index == 0

    def parts(self, rows: list[int], accumulation: int) -> list[list[int]]:
        """This process's rows of a step, in at most `accumulation` parts, of which all processes have as many.

        Rows come sorted by length: dealt out in turn every process gets as much work, cut in runs a part is little
        padded. A part is empty where there are not enough rows to go round.
        """
        mine, most = rows[self.index :: self.count], -(-len(rows) // self.count)
        count = min(accumulation, most)
        return [mine[len(mine) * i // count : len(mine) * (i + 1) // count] for i in range(count)]

    @torch.no_grad()
    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.count > 1:
            for tensor in tensors:
                tensor.copy_(reduce(tensor, "sum"))

    @torch.no_grad()
    def summed(self, *tensors: Tensor) -> list[Tensor]:
        """The sum of each over the processes, as a new tensor on the CPU."""
        placed = [tensor.to(self.state.device, copy=True) for tensor in tensors]
        self.sum(placed)
        return [tensor.cpu() for tensor in placed]

    @torch.no_grad()
    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the main process's."""
        if self.count > 1:
            for tensor in tensors:
                tensor.copy_(broadcast(tensor.detach().clone()))

    def gathered(self, facts: dict[str, Any]) -> list[dict[str, Any]]:
        """What every process has to say (JSON), in their order; floats are kept exactly."""
        if self.count == 1:
            return [facts]
        said = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8, device=self.state.device)
        rows = gather(pad_across_processes(said, pad_index=SPACE)[None])
        return [json.loads(bytes(row.tolist())) for row in rows]

    def dealt(self, items: Sequence[Item], measure: Callable[[Item], Any]) -> list:
        """`measure` of each item, in their order, each computed by one process and known to all.

        measure: puts out what JSON holds, floats are kept exactly (tuples come back as lists). Processes call it equally
        often, as those must that hold shards of one LLM: one that runs out of items measures the first again, in vain.
        """
        if self.count == 1:
            return [measure(item) for item in items]
        mine = range(self.index, len(items), self.count)
        found = {str(place): measure(items[place]) for place in mine}
        for _ in range(-(-len(items) // self.count) - len(mine)):
            measure(items[0])
        whole = {name: value for part in self.gathered(found) for name, value in part.items()}
        return [whole[str(place)] for place in range(len(items))]

    def from_main(self, facts: dict[str, float]) -> dict[str, float]:
        """What the main process has to say, so that all decide alike."""
        return self.gathered(facts)[0]

    def leave(self) -> None:
        """End the group, if there is one."""
        self.state.destroy_process_group()


def summed(figures: Iterable[dict[str, float]]) -> dict[str, float]:
    """The sum of each figure over those that have it, in their order."""
    total: dict[str, float] = {}
    for part in figures:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total
