"""Time and memory that prompts alone take, from text to their last state: nothing is generated (section 5.5).

Making the memories is part of a prompt's cost. Figures of one machine; two runs give two.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model.dialogue.dialogue import DialogueModel
from model.dialogue.examples import DialogueExample
from model.llm import embed, embedded_cache

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
DEVICE, PROCESS = (
    "the device's allocations, models included",
    "the process's resident memory, models included",
)
"""What `gigabytes` is of."""
GIGABYTE = 1e9


@dataclass(frozen=True)
class Cost:
    """seconds: of each prompt. gigabytes: the most that was in use at once, `memory_of` what."""

    seconds: tuple[float, ...]
    gigabytes: float
    memory_of: str


@torch.no_grad()
def prompt_cost(model: DialogueModel, examples: Sequence[DialogueExample]) -> Cost:
    """Of prompts processed one by one, each from its history's text. The first is processed once before, unmeasured."""
    device = model.llm.get_input_embeddings().weight.device
    cuda = device.type == "cuda"

    def process(example: DialogueExample) -> float:
        _wait(cuda)
        begin = time.perf_counter()
        (pieces,) = model.pieces([example])
        embedded_cache(model.llm, embed(model.llm, pieces))
        _wait(cuda)
        return time.perf_counter() - begin

    process(examples[0])
    _forget_peak(cuda)
    seconds = tuple(process(example) for example in examples)
    return Cost(seconds, _peak_bytes(cuda) / GIGABYTE, DEVICE if cuda else PROCESS)


def _wait(cuda: bool) -> None:
    """A device's work is done when it says so, and not when it was asked."""
    if cuda:
        torch.cuda.synchronize()


def _forget_peak(cuda: bool) -> None:
    """What is in use now becomes the peak. Of a process by the kernel's own count (Linux)."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        CLEAR.write_text("5")


def _peak_bytes(cuda: bool) -> int:
    if cuda:
        return torch.cuda.max_memory_allocated()
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
