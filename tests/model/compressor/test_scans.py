"""Which scan a device gets, and the Triton kernel by Triton's interpreter: the same numbers as the step-by-step scan."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.compressor.scan import selective_scan
from model.compressor.scans import STEP_BY_STEP, choose, disagreement, scan_of
from model.compressor.triton_scan import CHANNELS, CHUNK

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("x", "dt", "A", "B", "C", "D", "state")
BY_INTERPRETER = """
import sys
import torch
from safetensors.torch import load_file, save_file
from model.compressor.triton_scan import selective_scan

given = load_file(sys.argv[1])
inputs = [given[name].requires_grad_() for name in ("x", "dt", "A", "B", "C", "D", "state")]
y, last = selective_scan(*inputs)
gradients = torch.autograd.grad((y * given["for_y"]).sum() + (last * given["for_last"]).sum(), inputs)
save_file({str(i): t.detach().contiguous() for i, t in enumerate((y, last, *gradients))}, sys.argv[2])
"""


@pytest.mark.parametrize(
    "rows, length, width, states",
    [(2, 2 * CHUNK + 5, CHANNELS + 9, 16), (1, 1, 5, 4), (3, CHUNK, CHANNELS, 3)],
    ids=["parts of chunks and channels", "one step", "whole ones, odd states"],
)
def test_the_triton_kernel_equals_the_scan_in_double_precision(tmp_path, rows, length, width, states):
    torch.manual_seed(0)
    given = {
        "x": torch.randn(rows, length, width), "dt": torch.rand(rows, length, width) / 2,
        "A": -torch.rand(width, states) - 0.1, "B": torch.randn(rows, length, states),
        "C": torch.randn(rows, length, states), "D": torch.randn(width), "state": torch.randn(rows, states, width),
        "for_y": torch.randn(rows, length, width), "for_last": torch.randn(rows, states, width),
    }  # fmt: skip
    save_file(given, tmp_path / "given.safetensors")
    program = [
        sys.executable,
        "-c",
        BY_INTERPRETER,
        *(str(tmp_path / f"{n}.safetensors") for n in ("given", "found")),
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(program, env=environment, check=True, timeout=300)
    found = load_file(tmp_path / "found.safetensors")
    inputs = [given[name].double().requires_grad_() for name in NAMES]
    y, last = selective_scan(*inputs)
    gradients = torch.autograd.grad((y * given["for_y"]).sum() + (last * given["for_last"]).sum(), inputs)
    for place, expected in enumerate((y, last, *gradients)):
        off = (found[str(place)].double() - expected).abs().max()
        assert off <= 1e-6 * expected.abs().max(), ("y", "last", *NAMES)[place]


def test_a_cpu_scans_step_by_step_and_says_nothing_else():
    chosen = scan_of("cpu")
    assert chosen.function is selective_scan and chosen.line == f"selective scan: {STEP_BY_STEP}"
    assert not chosen.slow and choose({"none": lambda: off_by(0, 2.0)}, "cpu").slow


def off_by(place: int, factor: float):
    """The scan with one argument's part in it changed: outputs as they are, and a wrong gradient."""

    def scan(*inputs):
        bent = [t if i != place else t.detach() + factor * (t - t.detach()) for i, t in enumerate(inputs)]
        return selective_scan(*bent)

    return scan


@pytest.mark.parametrize("place, name", enumerate(("x", "dt", "A", "B", "C", "D")))
def test_a_kernel_with_a_wrong_gradient_is_found_out(place, name):
    assert disagreement(selective_scan, "cpu") is None
    assert disagreement(off_by(place, 1.0), "cpu") is None
    assert disagreement(off_by(place, 1.01), "cpu").startswith(f"the gradient of {name} is off by ")


def test_the_first_kernel_that_agrees_is_taken_and_why_others_were_not_is_said():
    def absent():
        raise ImportError("No module named 'fast_scan'\nsecond line")

    def wrong():
        return lambda *inputs: (2 * selective_scan(*inputs)[0], selective_scan(*inputs)[1])

    def right():
        return off_by(0, 1.0)

    kernels = {"fast": absent, "wrong": wrong, "right": right, "never tried": absent}
    chosen = choose(kernels, "cpu")
    assert chosen.name == "right" and list(chosen.passed_over) == ["fast", "wrong"]
    assert chosen.passed_over["fast"] == "ImportError: No module named 'fast_scan'"
    assert chosen.passed_over["wrong"].startswith("y is off by ")
    none = choose({"fast": absent, "wrong": wrong}, "cpu")
    assert none.function is selective_scan and none.name == STEP_BY_STEP
    assert none.line.startswith(
        "selective scan: step by step (fast: ImportError: No module named 'fast_scan'; wrong: y"
    )


def test_a_kernel_that_is_wrong_from_a_state_alone_is_found_out():
    def forgets(*inputs):
        return selective_scan(*inputs[:6], *(state / 2 for state in inputs[6:]))

    found = disagreement(forgets, "cpu")
    assert found is not None and found.startswith("y is off by ") and found.endswith(", from a state")


BESIDE_MAMBA_SSM = """
import sys
from inspect import getclosurevars
from types import ModuleType
from model.compressor import scan, scans, triton_scan

def channels_first(u, delta, A, B, C, D, return_last_state):
    y, last = scan.selective_scan(*(t.transpose(1, 2) for t in (u, delta)), A, *(t.transpose(1, 2) for t in (B, C)), D)
    return y.transpose(1, 2), last.transpose(1, 2)

module = "mamba_ssm.ops.selective_scan_interface"
for name in ("mamba_ssm", "mamba_ssm.ops", module):
    sys.modules[name] = ModuleType(name)
sys.modules[module].selective_scan_fn = channels_first
choose = scans.choose
scans.choose = lambda kernels, device: choose(kernels, "cpu")
chosen = scans.choose(scans.KERNELS, "cuda")
print(chosen.name, getclosurevars(chosen.function).nonlocals["from_state"] is triton_scan.selective_scan)
"""


def test_beside_mamba_ssm_triton_goes_on_from_a_state():
    """By Triton's interpreter, with a function of mamba-ssm's layout in its place."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", BESIDE_MAMBA_SSM], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["mamba-ssm", "True"], done.stderr


def test_a_nan_is_a_disagreement():
    def scan(*inputs):
        y, last = selective_scan(*inputs)
        return y * float("nan"), last

    assert disagreement(scan, "cpu") is not None
