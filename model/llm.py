"""A causal language model that reads token ids and embeddings in one prompt.

Prompts are lists of pieces: token ids [n] or embeddings [n, d], which stand where the paper's placeholders
<memory>, <audio> and <video> stand. Sequences are left-padded for generation. Knows nothing of what the
embeddings mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig

from model.device import best_device
from model.pretrained import from_folder, whole_model
from model.sharding import shard_if_configured

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Piece = Tensor
"""Token ids (int64 [n]) or embeddings (floating [n, d])."""

PrefixCache = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each [1, kv_heads, P, head_dim]."""


def load_llm(folder: Path, dtype: str = "bfloat16") -> tuple[nn.Module, object]:
    """The model, frozen, in eval mode and on the GPU where there is one, and its tokenizer, from a local folder.

    Processes that train together may hold it in shards (model/sharding.py). ValueError names weights that the
    folder lacks; a head that is tied to the embeddings needs none of its own. Its generation_config.json is not
    followed: how a reply is chosen is said where it is generated.
    Its own attention (eager on a CPU) encodes starts and generates, both without a gradient: replies are scored,
    in training too, by that of model/branches.py.
    """
    tokenizer = from_folder(AutoTokenizer, folder)
    device = best_device()
    attention = "eager" if device.type == "cpu" else "sdpa"
    llm = load_weights(folder, DTYPES[dtype], attn_implementation=attention)
    # Otherwise `generate` fills in what a folder recommends for sampling, such as a penalty of repetition.
    llm.generation_config = GenerationConfig()
    llm = shard_if_configured(llm.requires_grad_(False), llm.model.layers)
    return llm.eval().to(device), tokenizer


def load_weights(folder: Path | str, dtype: torch.dtype, **options: Any) -> nn.Module:
    """The causal LLM of a folder as it is stored, on the CPU. ValueError as `load_llm`."""
    return whole_model(AutoModelForCausalLM, folder, dtype=dtype, **options)


def body_and_head(llm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The decoder stack (embeddings in, hidden states out) and the vocabulary head; unwraps peft."""
    base = llm.get_base_model() if hasattr(llm, "get_base_model") else llm
    return base.model, base.lm_head


def llm_folder(llm: nn.Module) -> Path:
    """The folder that the base weights were loaded from."""
    base = llm.get_base_model() if hasattr(llm, "get_base_model") else llm
    return Path(base.config._name_or_path)


def token_ids(tokenizer, text: str) -> Tensor:
    """Token ids [n] of plain text, no special tokens added."""
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)


def reply_ids(tokenizer, reply: str) -> Tensor:
    """A reply's token ids and the end-of-turn token, both counted by |y| in equation 1."""
    return torch.cat([token_ids(tokenizer, reply), torch.tensor([tokenizer.eos_token_id])])


def chat_pieces(tokenizer, prompt: str, slots: dict[str, Tensor]) -> list[Piece]:
    """One user turn in the chat template (no system text), embeddings in place of their placeholders.

    slots: placeholder -> embeddings [n, d]. A placeholder without embeddings is an error, so a prompt never
    goes out with a literal "<audio>" in it.
    """
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": prompt}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if not slots:
        return [token_ids(tokenizer, rendered)]
    pieces = []
    for part in re.split("(" + "|".join(re.escape(name) for name in slots) + ")", rendered):
        if part in slots:
            pieces.append(slots[part])
        elif part:
            pieces.append(token_ids(tokenizer, part))
    missing = [name for name in slots if name not in rendered]
    if missing:
        raise ValueError(f"the prompt has no place for {', '.join(missing)}")
    return pieces


def strip_placeholders(text: str, placeholders: Sequence[str]) -> str:
    """What people said, never taken for one of the placeholders of a prompt ("<audio>")."""
    words = "|".join(re.escape(name.strip("<>")) for name in placeholders)
    # All brackets at once: one taken from each side of "<<audio>>" would leave a placeholder.
    return re.sub(f"<+({words})>+", r"\1", text)


def embed(llm: nn.Module, pieces: list[Piece]) -> Tensor:
    """Pieces -> one sequence of input embeddings [T, d] in the model's dtype."""
    table = llm.get_input_embeddings()
    weight = table.weight
    return torch.cat(
        [
            p.to(device=weight.device, dtype=weight.dtype)
            if p.is_floating_point()
            else table(p.to(weight.device))
            for p in pieces
        ]
    )


def prefix_cache(llm: nn.Module, ids: Tensor) -> PrefixCache:
    """A constant prefix [P], encoded once. Valid only while the model is frozen."""
    return embedded_cache(llm, embed(llm, [ids]))


def embedded_cache(llm: nn.Module, prefix: Tensor, past: PrefixCache | None = None) -> PrefixCache:
    """As `prefix_cache`, of input embeddings [P, d]; past: what was encoded before them, part of what is returned."""
    body, _ = body_and_head(llm)
    cache = DynamicCache(config=body.config) if past is None else filled_cache(past)
    with torch.no_grad():
        body(inputs_embeds=prefix[None], past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


@dataclass(frozen=True)
class CachedPrefix:
    """What prompts begin with, encoded once and for all: embeddings [P, d] and their keys and values.

    Valid only while the model is frozen. A prompt that leaves it early uses what it has of it.
    """

    embeddings: Tensor
    cache: PrefixCache

    @classmethod
    def of(cls, llm: nn.Module, ids: Tensor) -> CachedPrefix:
        """Of token ids [P]."""
        embeddings = embed(llm, [ids])
        return cls(embeddings, embedded_cache(llm, embeddings))

    def cut(self, length: int) -> PrefixCache:
        """Keys and values of its first `length` positions, which know nothing of the later ones."""
        return [(keys[:, :, :length], values[:, :, :length]) for keys, values in self.cache]


def filled_cache(prefix: PrefixCache, rows: int = 1) -> DynamicCache:
    """A fresh cache of rows that all begin with `prefix`."""
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(prefix):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache


class FixedStart(DynamicCache):
    """One row's start, which what comes later is put after and nothing is added to: a layer may run twice over it."""

    def __init__(self, prefix: PrefixCache):
        super().__init__()
        for layer, (keys, values) in enumerate(prefix):
            super().update(keys, values, layer)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_, **__
    ) -> tuple[Tensor, Tensor]:
        start = self.layers[layer_idx]
        return torch.cat([start.keys, key_states], 2), torch.cat([start.values, value_states], 2)


def shared_length(prompts: Sequence[Tensor]) -> int:
    """How many leading embeddings all prompts have in common."""
    if len(prompts) < 2:
        return 0
    first, shared = prompts[0], min(len(p) for p in prompts)
    for other in prompts[1:]:
        same = (first[:shared] == other[:shared].to(first.device)).all(1)
        shared = shared if bool(same.all()) else int(same.int().argmin())
    return shared


def mean_by_row(values: Tensor, owner: Tensor, rows: int) -> Tensor:
    """Mean of `values` [N] within each row -> [rows]."""
    total = torch.zeros(rows, dtype=values.dtype, device=values.device).index_add(0, owner, values)
    return total / torch.bincount(owner, minlength=rows)


@torch.no_grad()
def greedy_replies(
    llm: nn.Module, tokenizer, prompts: list[Tensor], max_new_tokens: int, kept: CachedPrefix | None = None
) -> list[str]:
    """Greedy continuation of each prompt [T_i, d] up to the tokenizer's end of turn, as text without special tokens.

    What all prompts begin with is encoded once, or not at all as far as it was `kept`. After it rows are
    left-padded; the attention mask keeps padding out of positions and attention.
    """
    longest = max(len(p) for p in prompts)
    # The last position of the shortest is read for every row, so that each has something to go on from.
    most = min(len(p) for p in prompts) - 1
    known = 0 if kept is None else min(shared_length([kept.embeddings, *prompts]), most)
    shared = max(known, min(shared_length(prompts), most))
    start = kept.cut(known) if known else None
    if shared > known:
        start = embedded_cache(llm, prompts[0][known:shared], start)
    width, device = prompts[0].shape[1], prompts[0].device
    inputs = torch.zeros(len(prompts), longest, width, dtype=prompts[0].dtype, device=device)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=device)
    for row, prompt in enumerate(prompts):
        own = longest - len(prompt) + shared
        inputs[row, :shared], inputs[row, own:] = prompt[:shared], prompt[shared:]
        mask[row, :shared], mask[row, own:] = 1, 1
    out = llm.generate(
        inputs_embeds=inputs,
        attention_mask=mask,
        past_key_values=None if start is None else filled_cache(start, len(prompts)),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in out]
