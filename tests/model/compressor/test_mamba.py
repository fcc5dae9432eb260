"""The scan and the stack against transformers, a plain loop, a hand calculation, and numerical derivatives.

mamba-ssm's kernel needs a GPU; how it is called is held to its documented layout, by a function of that layout.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import MambaConfig, MambaModel

from model.compressor.mamba import Mamba, MambaShape
from model.compressor.scan import CHUNK, selective_scan
from model.compressor.scans import as_scan


def test_scan_by_hand():
    # One channel, one state: A = -1, dt = 1, so the state decays by 1/e and takes in B x.
    ones = torch.ones(1, 2, 1)
    x = torch.tensor([[[2.0], [3.0]]])
    y, _ = selective_scan(x, ones, torch.tensor([[-1.0]]), ones, 5 * ones, torch.tensor([0.5]))
    decay = torch.exp(torch.tensor(-1.0))
    assert torch.allclose(y.flatten(), torch.stack([5 * 2 + 1.0 + 0 * decay, 5 * (2 * decay + 3) + 1.5]))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("length", [1, 3, 17])
def test_equals_transformers_forward_and_gradients(length, biased):
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=11,
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
        use_bias=biased,
        use_conv_bias=not biased,
        conv_kernel=3 if biased else 4,
    )
    theirs = MambaModel(config)
    sizes = {name: getattr(config, name) for name in MambaShape.model_fields}
    ours = Mamba(MambaShape(**sizes))
    weights = {k: v for k, v in theirs.state_dict().items() if not k.startswith("embeddings.")}
    ours.load_state_dict(weights, strict=True)
    inputs = torch.randn(3, length, 32)
    target = torch.randn(3, length, 32)
    left, right = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    a = ours(left)
    b = theirs(inputs_embeds=right, use_cache=False).last_hidden_state
    assert torch.allclose(a, b, atol=1e-5)
    (a * target).sum().backward()
    (b * target).sum().backward()
    assert torch.allclose(left.grad, right.grad, atol=1e-4, rtol=1e-4)
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, expected[name].grad, atol=1e-4, rtol=1e-3), name


def loop(x, dt, A, B, C, D, state):
    """The definition, one step after the other, for autograd to differentiate."""
    outputs, h = [], state
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t, None] * A.t())
        h = decay * h + B[:, t, :, None] * (dt[:, t] * x[:, t])[:, None]
        outputs.append((C[:, t, :, None] * h).sum(1) + D * x[:, t])
    return torch.stack(outputs, 1), h


def scan_inputs(batch=2, length=3, channels=3, states=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*sizes):
        return torch.randn(sizes, generator=generator, dtype=dtype)

    inputs = [
        draw(batch, length, channels),
        draw(batch, length, channels).exp(),
        -draw(channels, states).exp(),
        draw(batch, length, states),
        draw(batch, length, states),
        draw(channels),
        draw(batch, states, channels),
    ]
    return [t.requires_grad_() for t in inputs]


@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_scan_equals_the_definition_in_values_and_every_gradient(length):
    inputs = scan_inputs(length=length)
    ours, theirs = selective_scan(*inputs), loop(*inputs)
    weights = [torch.randn_like(t) for t in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-10)
    gradients = [
        torch.autograd.grad(sum((w * t).sum() for w, t in zip(weights, outputs, strict=True)), inputs)
        for outputs in (ours, theirs)
    ]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)


def test_scan_passes_gradcheck():
    assert torch.autograd.gradcheck(selective_scan, scan_inputs(length=CHUNK + 2))


def scan_as_mamba_ssm(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """mamba-ssm's selective_scan_fn by its closed form, not step by step: its arguments, shapes and one dtype.

    h_t is the sum over s <= t of exp(A (delta_{s+1} + ... + delta_t)) delta_s B_s u_s.
    """
    (batch, dim, length), states = u.shape, A.shape[1]
    assert delta.shape == (batch, dim, length) and A.shape == (dim, states) and D.shape == (dim,)
    assert B.shape == C.shape == (batch, states, length)
    assert {t.dtype for t in (u, delta, A, B, C, D)} == {torch.float32}
    assert all(t.stride(-1) == 1 for t in (u, delta, B, C)) and z is None and delta_bias is None
    until = delta.cumsum(2)
    gap = until[..., :, None] - until[..., None, :]  # [b, d, t, s]
    decay = torch.exp(A[None, :, None, None] * gap[..., None]) * torch.ones(length, length).tril()[..., None]
    h = torch.einsum("bdtsn,bds,bns->bdtn", decay, delta * u, B)
    y = torch.einsum("bdtn,bnt->bdt", h, C) + D[:, None] * u
    return (y, h[:, :, -1]) if return_last_state else y


def test_the_gpu_kernel_is_given_its_own_layout():
    inputs = [t.detach().float().requires_grad_() for t in scan_inputs(length=CHUNK + 3)[:-1]]
    found, expected = as_scan(scan_as_mamba_ssm, selective_scan)(*inputs), selective_scan(*inputs)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
    assert not found[1].requires_grad
    weight = torch.randn_like(found[0])
    gradients = [torch.autograd.grad((weight * y).sum(), inputs) for y, _ in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_reading_goes_on_from_the_gpu_kernels_state():
    x, dt, A, B, C, D = (t.detach().float() for t in scan_inputs(length=9)[:-1])
    first, rest = zip(*(t.split([4, 5], 1) for t in (x, dt, B, C)), strict=True)
    _, state = as_scan(scan_as_mamba_ssm, selective_scan)(*first[:2], A, *first[2:], D)
    y, _ = selective_scan(*rest[:2], A, *rest[2:], D, state)
    assert torch.allclose(y, selective_scan(x, dt, A, B, C, D)[0][:, 4:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_goes_on_from_a_state_is_left_to_a_scan_that_can():
    inputs, seen = [t.detach().float() for t in scan_inputs(length=5)], []

    def other(*given):
        seen.append(len(given))
        return selective_scan(*given)

    scan = as_scan(scan_as_mamba_ssm, other)
    scan(*inputs[:-1])
    assert not seen
    assert torch.equal(scan(*inputs)[0], selective_scan(*inputs)[0]) and seen == [7]


def test_the_gpu_kernel_is_given_one_type_under_mixed_precision():
    x, dt, A, B, C, D = (t.detach().float() for t in scan_inputs(length=5)[:-1])
    y, _ = as_scan(scan_as_mamba_ssm, selective_scan)(x.bfloat16(), dt, A, B.bfloat16(), C.bfloat16(), D)
    assert torch.allclose(y, selective_scan(x, dt, A, B, C, D)[0], rtol=0.05, atol=0.1)


class LargestTensor(TorchDispatchMode):
    """Numbers in the largest tensor that any operation returned."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        found = out if isinstance(out, tuple | list) else [out]
        self.size = max([self.size, *(t.numel() for t in found if torch.is_tensor(t))])
        return out


def test_scan_never_holds_a_state_for_every_step():
    inputs = scan_inputs(2, 16 * CHUNK, 4, 16)
    with LargestTensor() as seen:
        selective_scan(*inputs)[0].sum().backward()
    state = 2 * 16 * 4
    assert seen.size == max((CHUNK + 1) * state, *(t.numel() for t in inputs)) < 16 * CHUNK * state / 3


@torch.no_grad()
def test_going_on_equals_reading_at_once():
    torch.manual_seed(0)
    mamba = Mamba(MambaShape(hidden_size=16, num_hidden_layers=2))
    inputs = torch.randn(2, 23, 16)
    found, past = [], None
    for part in inputs.split([1, 2, 9, 11], 1):
        hidden, past = mamba.advance(part, past)
        found.append(hidden)
    assert torch.allclose(torch.cat(found, 1), mamba(inputs), atol=1e-5)


@torch.no_grad()
def test_states_equal_those_of_transformers():
    torch.manual_seed(0)
    theirs = MambaModel(MambaConfig(vocab_size=11, hidden_size=32, state_size=8, num_hidden_layers=2)).eval()
    ours = Mamba(MambaShape(hidden_size=32, num_hidden_layers=2, state_size=8), vocabulary=11)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ids = torch.randint(0, 11, (2, 9))
    cache = theirs(ids, use_cache=True).cache_params
    _, states = ours.advance(ours.embeddings(ids))
    for layer, state in zip(cache.layers, states, strict=True):
        found = layer.recurrent_states
        found = found[0] if not torch.is_tensor(found) else found
        assert torch.allclose(found, state.state.transpose(1, 2), atol=1e-5)


def test_no_time_step_sees_a_later_one():
    torch.manual_seed(0)
    mamba = Mamba(MambaShape(hidden_size=16, num_hidden_layers=2))
    inputs = torch.randn(1, 6, 16, requires_grad=True)
    mamba(inputs)[0, 2].sum().backward()
    reached = inputs.grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [True, True, True, False, False, False]
