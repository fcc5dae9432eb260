"""The scans of a GPU, where there is one: mamba-ssm's kernel and the Triton one, the same numbers as on a CPU, both ways.

Elsewhere test_scans.py runs the Triton kernel by its interpreter, and test_mamba.py holds how mamba-ssm's is called.
"""

import pytest
import torch
from torch.nn import functional as F
from transformers import MambaConfig, MambaModel

from model.compressor import mamba
from model.compressor.mamba import Mamba, MambaShape
from model.compressor.scan import CHUNK, selective_scan
from model.compressor.scans import KERNELS, ChosenScan, choose, scan_of

DEVICE = "cuda"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="the scan's kernels need a GPU")


@pytest.fixture(params=KERNELS)
def runs(request, monkeypatch) -> list[int]:
    """The length of every row that a kernel scans: what is compared below is it, and no fallback."""
    chosen, lengths = choose({request.param: KERNELS[request.param]}, DEVICE), []
    if chosen.passed_over:
        pytest.skip(chosen.line)

    def watched(x, *others):
        lengths.append(x.shape[1])
        return chosen.function(x, *others)

    found = {"cpu": scan_of("cpu"), DEVICE: ChosenScan(chosen.name, watched, {})}
    monkeypatch.setattr("model.compressor.mamba.scan_of", found.get)
    return lengths


def scan_inputs(length: int, rows: int = 2, channels: int = 64, states: int = 16) -> list[torch.Tensor]:
    """x, dt, A, B, C, D of `selective_scan`, at the sizes and scales of a Mamba."""
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes):
        return torch.randn(sizes, generator=generator)

    return [
        draw(rows, length, channels),
        F.softplus(draw(rows, length, channels) - 2),
        -torch.arange(1.0, states + 1).repeat(channels, 1),
        draw(rows, length, states),
        draw(rows, length, states),
        draw(channels),
    ]


def assert_close(found: torch.Tensor, expected: torch.Tensor, name: str, share: float = 1e-4) -> None:
    """Within `share` of the largest number: two orders of adding up in fp32."""
    difference = (found.detach().cpu() - expected.detach()).abs().max()
    assert difference <= share * expected.detach().abs().max(), f"{name}: off by {difference}"


@pytest.mark.parametrize("length", [1, CHUNK + 1, 300])
def test_the_kernel_equals_our_scan_forward_and_backward(runs, length):
    ours = [t.requires_grad_() for t in scan_inputs(length)]
    theirs = [t.detach().to(DEVICE).requires_grad_() for t in ours]
    (y, last), (kernel_y, kernel_last) = selective_scan(*ours), mamba.scan_of(DEVICE).function(*theirs)
    assert runs == [length]
    assert_close(kernel_y, y, "y")
    assert_close(kernel_last, last, "the last state")
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((y * weight).sum(), ours)
    found = torch.autograd.grad((kernel_y * weight.to(DEVICE)).sum(), theirs)
    for name, a, b in zip(("x", "dt", "A", "B", "C", "D"), found, expected, strict=True):
        assert_close(a, b, f"the gradient of {name}")


def outputs_and_gradients(mamba, run, inputs, weight) -> dict[str, torch.Tensor]:
    """Hidden states of run(inputs), and the gradients of the inputs and of every weight but the embeddings."""
    inputs = inputs.clone().requires_grad_()
    hidden = run(inputs)
    named = {name: p for name, p in mamba.named_parameters() if not name.startswith("embeddings")}
    gradients = torch.autograd.grad((hidden * weight).sum(), [inputs, *named.values()])
    return {"hidden": hidden, **dict(zip(["inputs", *named], gradients, strict=True))}


def test_transformers_our_scan_and_the_kernel_agree_on_the_same_weights(runs):
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=11, hidden_size=64, state_size=16, num_hidden_layers=3)
    # On the GPU as well: with mamba-ssm installed, transformers gives its kernels tensors of any device. And not in
    # training mode, whose fused kernel wants causal-conv1d besides.
    theirs = MambaModel(config).eval()
    shape = MambaShape(**{name: getattr(config, name) for name in MambaShape.model_fields})
    ours, on_gpu = Mamba(shape, 11), Mamba(shape, 11)
    for reader in (ours, on_gpu):
        reader.load_state_dict(theirs.state_dict(), strict=True)
    inputs, weight = torch.randn(3, 37, 64), torch.randn(3, 37, 64)

    expected = outputs_and_gradients(ours, ours, inputs, weight)
    assert not runs  # a CPU has no kernel
    there = inputs.to(DEVICE), weight.to(DEVICE)
    library = outputs_and_gradients(
        theirs.to(DEVICE), lambda x: theirs(inputs_embeds=x, use_cache=False).last_hidden_state, *there
    )
    kernel = outputs_and_gradients(on_gpu.to(DEVICE), on_gpu, *there)
    assert runs == [37] * config.num_hidden_layers
    for name, value in expected.items():
        assert_close(library[name], value, f"transformers, {name}", 1e-3)
        assert_close(kernel[name], value, f"the kernel, {name}", 1e-3)


@torch.no_grad()
def test_reading_goes_on_from_the_kernels_states(runs):
    """A history read at once on the GPU, and the turn after it, read from the states that it left."""
    torch.manual_seed(0)
    reader = Mamba(MambaShape(hidden_size=64, num_hidden_layers=2))
    inputs = torch.randn(1, 20, 64)
    whole = reader(inputs)
    reader.to(DEVICE)
    first, rest = inputs.to(DEVICE).split([13, 7], 1)
    hidden, past = reader.advance(first)
    assert runs == [13] * 2
    assert_close(torch.cat([hidden, reader.advance(rest, past)[0]], 1), whole, "hidden", 1e-3)
    assert runs == [13, 13, 7, 7]
