"""Replies to prompts in one forward pass: nothing that is shared is encoded twice, and nothing is padded.

All prompts and replies of a batch stand in one row. What every prompt begins with stands first and is encoded
once; then comes a block for each prompt, its rest followed by its replies. A token sees the shared start, the
prompt of its block, and its own reply; positions restart after the prompt for every reply. Knows nothing of
preferences or emotions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from model.llm import PrefixCache, body_and_head, filled_cache, shared_length
from model.token_log_probs import token_log_probs

ATTENTION = "branches"
"""Name under which transformers knows `branched_attention`."""


@dataclass(frozen=True)
class Block:
    """One prompt's place in the row: its own part [start, replies), and its replies [replies, end).

    seen [end - replies, before + end - start]: what each reply token sees of all that was cached, the shared
    start (`before` in all), the prompt and the replies.
    """

    start: int
    replies: int
    end: int
    seen: Tensor


@dataclass(frozen=True)
class Layout:
    """Where everything stands in the row.

    cached: tokens before the row, in the model's cache; shared: tokens that all prompts begin with;
    positions [N] as the model counts them. sources [M]: the place in the row of the state that predicts each
    reply token; owner [M]: number of the reply the token belongs to, replies counted over all prompts.
    """

    cached: int
    shared: int
    blocks: tuple[Block, ...]
    positions: Tensor
    sources: Tensor
    owner: Tensor

    def to(self, device: torch.device) -> Layout:
        """The same on a device."""
        blocks = tuple(Block(b.start, b.replies, b.end, b.seen.to(device)) for b in self.blocks)
        rest = (t.to(device) for t in (self.positions, self.sources, self.owner))
        return Layout(self.cached, self.shared, blocks, *rest)


@dataclass(frozen=True)
class TokenScores:
    """Of every reply token [M]: log-probability in fp32, whether it is the likeliest, number of its reply."""

    log_probs: Tensor
    hits: Tensor
    owner: Tensor


def branched_scores(
    llm: nn.Module,
    prompts: Sequence[Tensor],
    replies: Sequence[Sequence[Tensor]],
    prefix: PrefixCache | None = None,
) -> TokenScores:
    """Scores of every token of every reply given its prompt, equal to one forward per reply.

    prompts: input embeddings [T_i, d]; replies: for each prompt its token ids [n] (n >= 1); prefix: a cached
    constant start before every prompt (frozen model only). Tokens come in the order of `replies`. ValueError
    for an empty prompt or reply. Prompts that begin alike share that start unless they carry gradients of
    their own.
    """
    body, head = body_and_head(llm)
    table = llm.get_input_embeddings()
    device = table.weight.device
    shared = 0 if any(p.requires_grad for p in prompts) else shared_length(prompts)
    cached = 0 if prefix is None else prefix[0][0].shape[2]
    layout = plan_layout(
        [len(p) for p in prompts], [[len(r) for r in row] for row in replies], shared, cached
    ).to(device)
    _check_window(body, layout)
    targets = torch.cat([r for row in replies for r in row]).to(device)
    said = table(targets).split([sum(len(r) for r in row) for row in replies])
    parts = [part for p, row in zip(prompts, said, strict=True) for part in (p[shared:].to(device), row)]
    with attention_by(body, ATTENTION):
        hidden = body(
            inputs_embeds=torch.cat([prompts[0][:shared].to(device), *parts])[None],
            position_ids=layout.positions[None],
            past_key_values=None if prefix is None else filled_cache(prefix),
            use_cache=prefix is not None,
            layout=layout,
        ).last_hidden_state[0]
    log_probs, hits = token_log_probs(head, hidden[layout.sources], targets)
    return TokenScores(log_probs, hits, layout.owner)


def branched_log_probs(
    llm: nn.Module,
    prompts: Sequence[Tensor],
    replies: Sequence[Sequence[Tensor]],
    prefix: PrefixCache | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [M] and owner [M] of `branched_scores`."""
    scores = branched_scores(llm, prompts, replies, prefix)
    return scores.log_probs, scores.owner


def reply_log_probs(
    llm: nn.Module, prompts: Sequence[Tensor], replies: Sequence[Tensor], prefix: PrefixCache | None = None
) -> tuple[Tensor, Tensor]:
    """As `branched_log_probs`, one reply [n_i] to each prompt."""
    return branched_log_probs(llm, prompts, [[reply] for reply in replies], prefix)


def plan_layout(
    prompts: Sequence[int], replies: Sequence[Sequence[int]], shared: int = 0, cached: int = 0
) -> Layout:
    """The layout of a batch from lengths alone; prompts are counted with the `shared` tokens they begin with."""
    blocks, positions, sources, owner = [], [torch.arange(cached, cached + shared)], [], []
    column, number = shared, 0
    for i, (prompt, lengths) in enumerate(zip(prompts, replies, strict=True)):
        if prompt < 1:
            raise ValueError(f"prompt {i} is empty; give it a token")
        own, total = prompt - shared, sum(lengths)
        start, column = column, column + own
        positions.append(torch.arange(cached + shared, cached + prompt))
        seen = torch.zeros(total, cached + shared + own + total, dtype=torch.bool)
        seen[:, : cached + shared + own] = True
        said = 0
        for branch, length in enumerate(lengths, 1):
            if length < 1:
                raise ValueError(
                    f"reply {branch} to prompt {i} is empty; leave such rows out before training"
                )
            place = slice(cached + shared + own + said, cached + shared + own + said + length)
            seen[said : said + length, place] = torch.ones(length, length, dtype=torch.bool).tril()
            positions.append(torch.arange(cached + prompt, cached + prompt + length))
            # The first token is predicted from the prompt's last state, the others from the token before.
            last = start + own - 1 if own else shared - 1
            sources += [last, *range(column + said, column + said + length - 1)]
            owner += [number] * length
            said, number = said + length, number + 1
        column += total
        blocks.append(Block(start, start + own, column, seen))
    return Layout(
        cached, shared, tuple(blocks), torch.cat(positions), torch.tensor(sources), torch.tensor(owner)
    )


def _check_window(body: nn.Module, layout: Layout) -> None:
    """ValueError where a prompt with its reply is longer than the model can number."""
    window, longest = getattr(body.config, "max_position_embeddings", None), int(layout.positions.max()) + 1
    if window is not None and longest > window:
        raise ValueError(
            f"a prompt and its reply have {longest} tokens, the LLM's window has {window}; shorten the history"
        )


def branched_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, layout: Layout,
    scaling: float, **_,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention over the row, block by block; the interface is transformers'.

    query [1, heads, N, d]; key, value [1, kv_heads, cached + N, d], what was cached first. Returns
    [1, N, heads, d]. No token is compared with another block's: the cost is that of the blocks alone.
    """
    own = [size for b in layout.blocks for size in (b.replies - b.start, b.end - b.replies)]
    before = layout.cached + layout.shared
    # Taken apart by one split each, whose backward is one concatenation; a slice's would be a tensor of zeros
    # of the whole row's length.
    first, *queries = query.split([layout.shared, *own], 2)
    (first_key, *keys), (first_value, *values) = (t.split([before, *own], 2) for t in (key, value))

    def attend(q: Tensor, k: Sequence[Tensor], v: Sequence[Tensor], seen: Tensor | None) -> Tensor:
        """The queries are the last positions of the keys, and causal where `seen` does not say more."""
        k, v = torch.cat(k, 2), torch.cat(v, 2)
        offset = k.shape[2] - q.shape[2]
        if seen is None and offset:
            seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(offset)
        return F.scaled_dot_product_attention(
            q, k, v, seen, is_causal=seen is None, scale=scaling, enable_gqa=True
        )

    parts = [attend(first, [first_key], [first_value], None)] if layout.shared else []
    for i, block in enumerate(layout.blocks):
        prompt, reply = 2 * i, 2 * i + 1
        if block.replies > block.start:
            parts.append(
                attend(queries[prompt], [first_key, keys[prompt]], [first_value, values[prompt]], None)
            )
        known = [first_key, keys[prompt], keys[reply]], [first_value, values[prompt], values[reply]]
        parts.append(attend(queries[reply], *known, block.seen))
    return torch.cat(parts, 2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, branched_attention)


@contextmanager
def attention_by(body: nn.Module, name: str) -> Iterator[None]:
    """The decoder stack computes attention by the function registered under `name`."""
    usual = body.config._attn_implementation
    body.config._attn_implementation = name
    try:
        yield
    finally:
        body.config._attn_implementation = usual
