"""Bytes a token that a training of the 7B keeps for its backward pass, counted: `make bench NAME=activations`.

The LLM of the paper profile in its own shape, on tensors that have a size and no numbers, with its LoRA; what autograd
keeps of a batch is added up. Of attention, what a fused kernel keeps: queries, the keys and values that it is given,
what comes out, and a number a token and head. Two layers less one is what a layer keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from model import branches
from model.adapter import new_adapter
from model.branches import reply_log_probs
from model.dialogue.settings import DialogueSettings
from model.recompute import recomputed_layers

LAYERS, WIDTH = 28, 3584
SHAPE = {
    "hidden_size": WIDTH, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4,
    "vocab_size": 1024, "max_position_embeddings": 32768,
}  # fmt: skip
"""Qwen2.5-7B's configuration; the vocabulary, of which no activations are kept, is short."""
ROWS, PROMPT, REPLY = 8, 503, 25
"""A batch of MultiDialog's, whose history is text: what docs/costs.md counts with."""


class _Fused(torch.autograd.Function):
    """Keeps what a fused kernel does."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError("counted, never run")


@contextmanager
def _fused_kernels() -> Iterator[None]:
    usual = branches.F.scaled_dot_product_attention
    branches.F.scaled_dot_product_attention = lambda query, key, value, *_, **__: _Fused.apply(
        query, key, value
    )
    try:
        yield
    finally:
        branches.F.scaled_dot_product_attention = usual


def kept(layers: int, recomputed: bool, rows: int = ROWS, prompt: int = PROMPT, reply: int = REPLY) -> int:
    """Bytes that a batch keeps in an LLM of so many layers."""
    settings = DialogueSettings()
    with torch.device("meta"):
        llm = (
            Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_hidden_layers=layers)).bfloat16().requires_grad_(False)
        )
        llm = new_adapter(llm, settings.rank, settings.alpha, settings.target_modules, seed=0)
        prompts = [torch.empty(prompt, WIDTH, dtype=torch.bfloat16, requires_grad=True) for _ in range(rows)]
    sizes: dict[int, tuple[int, torch.UntypedStorage]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage._cdata] = storage.nbytes(), storage  # held, so that no other gets its number
        return tensor.detach()

    with (
        _fused_kernels(),
        recomputed_layers([llm]) if recomputed else nullcontext(),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        reply_log_probs(llm, prompts, [torch.zeros(reply, dtype=torch.long)] * rows)
    weights = {parameter.untyped_storage()._cdata for parameter in llm.parameters()}
    return sum(size for place, (size, _) in sizes.items() if place not in weights)


def bytes_a_token(recomputed: bool) -> float:
    """What all layers keep of each token of a batch."""
    a_layer = kept(2, recomputed) - kept(1, recomputed)
    return LAYERS * a_layer / (ROWS * (PROMPT + REPLY))


def main() -> None:
    """Both ways, in MB a token, and how many times less the second takes."""
    whole, alone = bytes_a_token(False), bytes_a_token(True)
    print(f"all activations kept: {whole / 1e6:.2f} MB a token; layer inputs alone: {alone / 1e6:.2f} MB")
    facts = {"mb_a_token": round(whole / 1e6, 3), "mb_a_token_recomputed": round(alone / 1e6, 3)}
    print(json.dumps({"name": "activations", "ratio": round(whole / alone, 2), **facts}))


if __name__ == "__main__":
    main()
