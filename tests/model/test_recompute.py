"""Activation checkpointing: the same step to the last bit, from less memory; and what a GPU's attention is given.

The layers run twice over their inputs, with a cached start (extractor, compressor) and without (dialogue, EPO).
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from model import branches
from model.branches import attention_form, branched_scores
from model.llm import prefix_cache
from model.recompute import recomputed_layers
from model.training_memory import TrainingMemory
from tests.support.trainings import TRAININGS


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_the_same_to_the_last_bit(name, tmp_path):
    for folder, told in (("kept", False), ("again", True)):
        TRAININGS[name](tmp_path / folder, activation_checkpointing=told)
    kept, again = (
        json.loads((tmp_path / folder / "report.json").read_text())["history"] for folder in ("kept", "again")
    )
    assert again == kept and len(kept["train"]) > 1
    (file,) = (tmp_path / "kept").glob("*model.safetensors")
    weights, others = load_file(file), load_file(tmp_path / "again" / file.name)
    assert all(torch.equal(weight, others[key]) for key, weight in weights.items())


@pytest.fixture(scope="module")
def llm() -> LlamaForCausalLM:
    """Four heads of queries on two of keys, and layers enough that what each keeps is most of it."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2, vocab_size=50
    )  # fmt: skip
    return LlamaForCausalLM(shape).eval()


def rows(llm, length: int) -> tuple[list, list]:
    generator = torch.Generator().manual_seed(length)
    table = llm.get_input_embeddings()
    prompts = [table(torch.randint(0, 50, (length + i,), generator=generator)).detach() for i in range(3)]
    replies = [[torch.randint(0, 50, (5 + i,), generator=generator) for _ in range(2)] for i in range(3)]
    return prompts, replies


def scored(llm, length: int, cached: int = 0) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Log-probabilities, and the gradients of all weights."""
    prompts, replies = rows(llm, length)
    prefix = prefix_cache(llm, torch.arange(cached)) if cached else None
    found = branched_scores(llm, prompts, replies, prefix).log_probs
    return found.detach(), list(torch.autograd.grad(found.sum(), list(llm.parameters()), allow_unused=True))


@pytest.mark.parametrize("cached", [0, 4])
@pytest.mark.parametrize("length", [6, 140], ids=["side by side", "block by block"])
def test_repeated_keys_and_values_give_what_grouped_ones_do(llm, monkeypatch, length, cached):
    grouped, slopes = scored(llm, length, cached)
    monkeypatch.setattr(branches, "GROUPED", frozenset())  # as on a GPU
    repeated, others = scored(llm, length, cached)
    torch.testing.assert_close(repeated, grouped, rtol=1e-5, atol=1e-5)
    for slope, other in zip(slopes, others, strict=True):
        torch.testing.assert_close(other, slope, rtol=1e-4, atol=1e-5)


def activations(llm, recomputed: bool) -> tuple[int, str]:
    """What the estimate says after a batch, in bytes and in words."""
    prompts, replies = rows(llm, 60)
    memory = TrainingMemory(dict(llm.named_parameters()), [llm], 1, 200, limit=10**9, recomputed=recomputed)
    with memory.watching(200):
        branched_scores(llm, prompts, replies).log_probs.sum()
    return memory.needed.activations, memory.line()


def test_the_estimate_counts_what_is_kept_and_says_which_way(llm):
    kept, line = activations(llm, False)
    with recomputed_layers([llm]):
        again, shorter = activations(llm, True)
    tokens = 60 + 61 + 62 + 2 * (5 + 6 + 7)
    inputs = 6 * tokens * 32 * 4  # of six layers, 32 numbers of four bytes a token
    assert inputs <= again < 2 * inputs < kept / 3
    assert f"{kept // 200 / 1e3:.3g} kB a token, grouped heads, all activations kept" in line
    assert "layer inputs alone kept" in shorter
    assert attention_form(torch.device("cuda")) == "keys and values repeated under a mask"
    assert activations(llm, False)[0] == kept  # the layers are as they were
