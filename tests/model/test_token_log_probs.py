"""Log-probabilities a block at a time against torch's own cross entropy, and what they never allocate."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model.token_log_probs import BLOCK, token_log_probs

TOKENS, WIDTH, WORDS = 2 * BLOCK + 3, 16, 331


@pytest.fixture
def batch():
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, WORDS, bias=False)
    return head, torch.randn(TOKENS, WIDTH, requires_grad=True), torch.randint(0, WORDS, (TOKENS,))


@pytest.mark.parametrize("frozen", [True, False])
def test_values_and_gradients_equal_cross_entropy(batch, frozen):
    head, hidden, targets = batch
    head.requires_grad_(not frozen)
    weights = torch.randn(TOKENS)
    found, hits = token_log_probs(head, hidden, targets)
    wanted = -F.cross_entropy(head(hidden), targets, reduction="none")
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.equal(hits, head(hidden).argmax(-1) == targets)
    inputs = [hidden] if frozen else [hidden, head.weight]
    ours = torch.autograd.grad((found * weights).sum(), inputs)
    theirs = torch.autograd.grad((wanted * weights).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_an_adapted_head_is_asked_itself(batch):
    head, hidden, targets = batch
    biased = nn.Linear(WIDTH, WORDS)
    found, _ = token_log_probs(biased, hidden, targets)
    assert torch.allclose(found, -F.cross_entropy(biased(hidden), targets, reduction="none"), atol=1e-5)


def lora_head() -> nn.Module:
    base = nn.ModuleDict({"lm_head": nn.Linear(WIDTH, WORDS, bias=False)})
    config = LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False, lora_dropout=0.0)
    return inject_adapter_in_model(config, base)["lm_head"]


@pytest.mark.parametrize("head", [lambda: nn.Linear(WIDTH, WORDS), lora_head], ids=["bias", "LoRA"])
def test_an_adapted_head_keeps_no_logits_for_the_backward(batch, head):
    _, hidden, targets = batch
    head, kept = head(), []
    learnt = [hidden, *(p for p in head.parameters() if p.requires_grad)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(tuple(t.shape)), t)[1], lambda t: t):
        found, hits = token_log_probs(head, hidden, targets)
    assert not [shape for shape in kept if shape[-1:] == (WORDS,) and shape[0] > 1]
    wanted = -F.cross_entropy(head(hidden), targets, reduction="none")
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.equal(hits, head(hidden).argmax(-1) == targets)
    weights = torch.randn(TOKENS)
    ours = torch.autograd.grad((found * weights).sum(), learnt)
    theirs = torch.autograd.grad((wanted * weights).sum(), learnt)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


class Allocations(TorchDispatchMode):
    """Shapes of all that any operation returns."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        found = out if isinstance(out, tuple | list) else [out]
        self.shapes |= {tuple(t.shape) for t in found if torch.is_tensor(t)}
        return out


def test_no_more_logits_than_a_block_and_no_gradient_for_a_frozen_head(batch):
    head, hidden, targets = batch
    head.requires_grad_(False)
    with Allocations() as seen:
        token_log_probs(head, hidden, targets)[0].sum().backward()
    assert max(shape[0] for shape in seen.shapes if shape[-1:] == (WORDS,) and len(shape) == 2) == BLOCK
    assert (WORDS, WIDTH) not in seen.shapes


def test_low_precision(batch):
    head, hidden, targets = batch
    found, _ = token_log_probs(head.bfloat16(), hidden.bfloat16(), targets)
    assert found.dtype == torch.float32
    assert torch.allclose(found, -F.cross_entropy(head(hidden.bfloat16()).float(), targets, reduction="none"))


def test_states_and_targets_that_do_not_pair_up_are_refused(batch):
    _, hidden, targets = batch
    with pytest.raises(ValueError):
        token_log_probs(nn.Linear(WIDTH, WORDS), hidden, targets[:BLOCK])
