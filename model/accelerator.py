"""Which GPUs torch finds on this machine, why it finds none, and which selective scan runs there.

As a module it prints that as one line of JSON. It is asked so, in a process of its own: what has looked for a GPU must
not be forked, and holds some of its memory. Knows nothing of settings.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""What a driver leaves there: NVIDIA's, that of WSL, AMD's."""
GB = 1e9


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name, its memory, how much of that nobody has taken, and what tells the card from all others."""

    name: str
    total_gb: float
    free_gb: float
    uuid: str = ""


@dataclass(frozen=True)
class Accelerator:
    """gpus: those that torch can use; fault: why there are none, in torch's words; scan: the line that says which
    selective scan runs; slow_scan: whether a GPU is left with the step-by-step one."""

    gpus: tuple[Gpu, ...] = ()
    fault: str | None = None
    scan: str = "selective scan: step by step"
    slow_scan: bool = False

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Accelerator:
        facts = json.loads(text)
        return cls(**{**facts, "gpus": tuple(Gpu(**gpu) for gpu in facts["gpus"])})

    @property
    def lines(self) -> tuple[str, ...]:
        """What a run says of it first."""
        told = ", ".join(f"{gpu.name} ({gpu.free_gb:.0f} of {gpu.total_gb:.0f} GB free)" for gpu in self.gpus)
        return (f"computes on {told or 'the CPU'}", self.scan)


def too_slow(scan: str) -> str:
    """Why a GPU that is left with the step-by-step scan does not do, and what to do. scan: the line that says why it is."""
    return (
        f"{scan}: on a GPU that takes hours for minutes; install again (make setup-gpu; Triton needs a C compiler), or "
        "`--set run.allow_slow_scan=true` takes it all the same"
    )


def may_have_gpu() -> bool:
    """Whether some driver's device is there at all: without one torch need not be asked."""
    return any(Path(path).exists() for path in DEVICES)


def look() -> Accelerator:
    """What torch finds; starts its GPU runtime."""
    import torch

    from model.compressor.scans import scan_of

    fault = _fault(torch)
    gpus = () if fault else tuple(_gpu(torch, number) for number in range(torch.cuda.device_count()))
    chosen = scan_of("cuda" if gpus else "cpu")
    return Accelerator(gpus, fault, chosen.line, chosen.slow)


def _fault(torch) -> str | None:
    """Why torch cannot compute on a GPU, in one sentence; None where it can."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:  # not built for one; no driver, or one that does not fit
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return first.split(". ")[0].rstrip(".")
    return None if torch.cuda.device_count() else "No GPU is visible (CUDA_VISIBLE_DEVICES?)"


def _gpu(torch, number: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(number)
    uuid = str(torch.cuda.get_device_properties(number).uuid)
    return Gpu(torch.cuda.get_device_name(number), round(total / GB, 2), round(free / GB, 2), uuid)


if __name__ == "__main__":
    sys.stdout.write(look().as_json() + "\n")
