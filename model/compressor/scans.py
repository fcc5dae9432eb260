"""Which selective scan a device runs: mamba-ssm's kernel, this project's Triton kernel, or the step-by-step scan of scan.py.

On a GPU a kernel is taken only if it imports and agrees, both ways, with the step-by-step scan on a small example; why
one was passed over is kept and said. A CPU has the step-by-step scan alone, which is quick there; on a GPU it launches
some twenty kernels a token and layer, so that a training takes hours instead of minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from model.compressor.scan import selective_scan

Scan = Callable[..., tuple[Tensor, Tensor]]
STEP_BY_STEP = "step by step"
TOLERANCE = 1e-3
"""Of the largest number: kernels add up in other orders."""


@dataclass(frozen=True)
class ChosenScan:
    """The scan of a device: what it is called, the function, and why each faster one was passed over."""

    name: str
    function: Scan
    passed_over: Mapping[str, str]

    @property
    def slow(self) -> bool:
        """Whether a device that has kernels is left with the step-by-step scan."""
        return self.name == STEP_BY_STEP and bool(self.passed_over)

    @property
    def line(self) -> str:
        """What a run says of it, in a line."""
        why = "; ".join(f"{name}: {reason}" for name, reason in self.passed_over.items())
        return f"selective scan: {self.name}{f' ({why})' if why else ''}"


@cache
def scan_of(device: str) -> ChosenScan:
    """The scan of a kind of device ("cpu", "cuda"), found once a process."""
    return ChosenScan(STEP_BY_STEP, selective_scan, {}) if device == "cpu" else choose(KERNELS, device)


def choose(kernels: Mapping[str, Callable[[], Scan]], device: str) -> ChosenScan:
    """The first of the kernels that can be had on the device and agrees, else the step-by-step scan."""
    passed_over: dict[str, str] = {}
    for name, load in kernels.items():
        try:
            scan = load()
            fault = disagreement(scan, device)
        except (
            Exception
        ) as error:  # of an import, a compiler or a driver: unrelated types that all mean the same here
            fault = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0][:160]}"
        if fault is None:
            return ChosenScan(name, scan, passed_over)
        passed_over[name] = fault
    return ChosenScan(STEP_BY_STEP, selective_scan, passed_over)


def disagreement(scan: Scan, device: str) -> str | None:
    """What a scan computes otherwise than the step-by-step scan: outputs and gradients, a small example that starts from
    nothing and once more from a state; None: nothing."""
    for start in (None, "a state"):
        given = ("x", "dt", "A", "B", "C", "D", *([start] if start else []))
        names = ("y", "the last state", *(f"the gradient of {name}" for name in given))
        found, expected = (
            _results(function, device, start is not None) for function in (scan, selective_scan)
        )
        for name, one, other in zip(names, found, expected, strict=True):
            off = (one.float() - other.float()).abs().max()
            if not off <= TOLERANCE * other.float().abs().max():
                told = f"{name} is off by {off:.2g} on the example it was tried on"
                return f"{told}, from {start}" if start else told
    return None


def _results(scan: Scan, device: str, from_state: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    length, width, states = 19, 40, 16  # of no round size
    numbers = [torch.randn(2, length, size, generator=generator) for size in (width, width, states, states)]
    x, dt, B, C = numbers
    A = -torch.arange(1.0, states + 1).repeat(width, 1)
    start = [torch.randn(2, states, width, generator=generator)] if from_state else []
    inputs = [t.to(device).requires_grad_() for t in (x, F.softplus(dt - 2), A, B, C, x[0, 0], *start)]
    with torch.enable_grad():
        y, last = scan(*inputs)
        weight = torch.linspace(-1, 1, width, device=device)
        return [y.detach(), last.detach(), *torch.autograd.grad((y * weight).sum(), inputs)]


def triton_kernel() -> Scan:
    from model.compressor.triton_scan import selective_scan as kernel

    return kernel


def mamba_ssm_kernel() -> Scan:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return as_scan(selective_scan_fn, choose({"Triton": triton_kernel}, "cuda").function)


KERNELS: Mapping[str, Callable[[], Scan]] = {"mamba-ssm": mamba_ssm_kernel, "Triton": triton_kernel}
"""In the order of preference."""


def as_scan(kernel: Callable, from_state: Scan) -> Scan:
    """`selective_scan` by a function of mamba-ssm's layout, which has channels before time.

    kernel(u [b, d, l], delta [b, d, l], A [d, n], B [b, n, l], C [b, n, l], D [d], return_last_state=True) ->
    y [b, d, l] and the last state [b, d, n]. It takes numbers of one type, so all go in as fp32; it makes no gradient
    for the last state, and starts from nothing: what goes on from a state is scanned by `from_state`.
    """

    def scan(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if state is not None:
            return from_state(x, dt, A, B, C, D, state)
        u, delta, rows, columns = (t.transpose(1, 2).float().contiguous() for t in (x, dt, B, C))
        y, last = kernel(u, delta, A.contiguous(), rows, columns, D, return_last_state=True)
        return y.transpose(1, 2), last.detach().transpose(1, 2)

    return scan
