"""The scan against transformers' MambaModel and against a hand calculation."""

import pytest
import torch
from transformers import MambaConfig, MambaModel

from model.compressor.mamba import Mamba, selective_scan


def test_scan_by_hand():
    # One channel, one state: A = -1, dt = 1, so the state decays by 1/e and takes in B x.
    ones = torch.ones(1, 2, 1)
    x = torch.tensor([[[2.0], [3.0]]])
    y = selective_scan(x, ones, torch.tensor([[-1.0]]), ones, 5 * ones, torch.tensor([0.5]))
    decay = torch.exp(torch.tensor(-1.0))
    assert torch.allclose(y.flatten(), torch.stack([5 * 2 + 1.0 + 0 * decay, 5 * (2 * decay + 3) + 1.5]))


@pytest.mark.parametrize("length", [1, 3, 17])
def test_equals_transformers_forward_and_gradients(length):
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=11, hidden_size=32, state_size=8, num_hidden_layers=2)
    theirs = MambaModel(config)
    ours = Mamba(hidden=32, layers=2, state=8)
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


def test_no_time_step_sees_a_later_one():
    torch.manual_seed(0)
    mamba = Mamba(hidden=16, layers=2)
    inputs = torch.randn(1, 6, 16, requires_grad=True)
    mamba(inputs)[0, 2].sum().backward()
    reached = inputs.grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [True, True, True, False, False, False]
