"""Products in bf16: what comes out, what goes back, and which layers are taken."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from model.half_products import HalfLinear, halve_products
from model.llm import load_llm
from model.token_log_probs import token_log_probs


def test_a_product_and_its_gradient_are_those_of_rounded_numbers():
    torch.manual_seed(0)
    layer = nn.Linear(24, 40).requires_grad_(False)
    half, x = HalfLinear(layer), torch.randn(3, 5, 24, requires_grad=True)
    weight, rounded = layer.weight.bfloat16().float(), x.detach().bfloat16().float()
    found = half(x)
    assert found.dtype == torch.float32
    assert torch.allclose(found, rounded @ weight.t() + layer.bias, rtol=2**-7, atol=2e-2)
    slope = torch.randn_like(found)
    found.backward(slope)
    assert x.grad.dtype == torch.float32
    assert torch.allclose(x.grad, slope.bfloat16().float() @ weight, rtol=2**-7, atol=4e-2)


def test_frozen_layers_are_taken_and_what_is_trained_is_not(tiny_llm_folder):
    llm, _ = load_llm(tiny_llm_folder, "float32")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(llm, config, autocast_adapter_dtype=False)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        before = adapted(ids).logits
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    halve_products(adapted)
    after = adapted(ids).logits
    assert (after - before).abs().max() < 0.05 * before.abs().max() and not torch.equal(after, before)
    assert {name: p for name, p in adapted.named_parameters() if p.requires_grad} == trained
    kinds = {name.split(".")[-1]: type(m) for name, m in adapted.named_modules() if "layers.0." in name}
    assert kinds["base_layer"] is HalfLinear and kinds["gate_proj"] is HalfLinear
    after.sum().backward()
    assert all(p.grad is not None for p in trained.values())


def test_log_probs_of_a_head_in_bf16():
    torch.manual_seed(0)
    head = nn.Linear(16, 50, bias=False).requires_grad_(False)
    states, targets = torch.randn(300, 16, requires_grad=True), torch.randint(50, (300,))
    exact, _ = token_log_probs(head, states, targets)
    (wanted,) = torch.autograd.grad(exact.sum(), states)
    found, _ = token_log_probs(HalfLinear(head), states, targets)
    (slope,) = torch.autograd.grad(found.sum(), states)
    assert torch.allclose(found, exact, atol=3e-2) and torch.allclose(slope, wanted, atol=2e-2)
    assert slope.dtype == torch.float32
