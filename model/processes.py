"""The processes that train one model together, through accelerate: usually one, which has nobody to ask.

Every process holds the whole model and the same rows in the same order; of each step it computes its share, and all
take the same step. Knows nothing of losses, optimizers, or of who started the processes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, gather, pad_across_processes, reduce
from torch import Tensor

SPACE = ord(" ")


class Processes:
    """This process among those that accelerate's launcher started with it; alone where none did.

    Entering a group takes its GPU as torch's default, or gloo where there is none: the model is loaded after that.
    """

    def __init__(self):
        self.state = PartialState(cpu=not torch.cuda.is_available())
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
    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by the main process's."""
        if self.count > 1:
            for tensor in tensors:
                tensor.copy_(broadcast(tensor.detach().clone()))

    def gathered(self, facts: dict[str, float]) -> list[dict[str, float]]:
        """What every process has to say, in their order; floats are kept exactly."""
        if self.count == 1:
            return [facts]
        said = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8, device=self.state.device)
        rows = gather(pad_across_processes(said, pad_index=SPACE)[None])
        return [json.loads(bytes(row.tolist())) for row in rows]

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
