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

from model.llm import FixedStart, PrefixCache, body_and_head, shared_length
from model.token_log_probs import token_log_probs

SHORT = 128
"""Blocks of at most so many tokens are padded to one length and attended to in one call: a call for each costs
more there than the padding does."""

ATTENTION = "branches"
"""Name under which transformers knows `branched_attention`."""

GROUPED = frozenset({"cpu"})
"""Kinds of device with a fused kernel that takes a mask and fewer heads of keys than of queries. On CUDA such a call falls
to plain products, which keep every token's weights for every other one."""


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
    padded: where blocks are short, how they stand side by side (`_side_by_side`), else None: the place in the
    row of each of a block's tokens [blocks, longest], padded with its first; where each token of the row, from
    the first block on, is found there [N - shared]; and what each sees [blocks, longest, before + longest].
    """

    cached: int
    shared: int
    blocks: tuple[Block, ...]
    positions: Tensor
    sources: Tensor
    owner: Tensor
    padded: tuple[Tensor, Tensor, Tensor] | None

    def to(self, device: torch.device) -> Layout:
        """The same on a device."""
        blocks = tuple(Block(b.start, b.replies, b.end, b.seen.to(device)) for b in self.blocks)
        rest = (t.to(device) for t in (self.positions, self.sources, self.owner))
        padded = None if self.padded is None else tuple(t.to(device) for t in self.padded)
        return Layout(self.cached, self.shared, blocks, *rest, padded)


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
    )
    _check_window(body, layout)  # before it is on a GPU, which would have to be waited for
    layout = layout.to(device)
    targets = torch.cat([r for row in replies for r in row]).to(device)
    said = table(targets).split([sum(len(r) for r in row) for row in replies])
    parts = [part for p, row in zip(prompts, said, strict=True) for part in (p[shared:].to(device), row)]
    with attention_by(body, ATTENTION):
        hidden = body(
            inputs_embeds=torch.cat([prompts[0][:shared].to(device), *parts])[None],
            position_ids=layout.positions[None],
            past_key_values=None if prefix is None else FixedStart(prefix),
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
    _check_lengths(prompts, replies)
    before = cached + shared
    blocks, positions, sources = [], [torch.arange(cached, before)], []
    start = shared
    for prompt, lengths in zip(prompts, replies, strict=True):
        own = prompt - shared
        block = Block(start, start + own, start + own + sum(lengths), _seen(before + own, lengths))
        blocks.append(block)
        positions.append(torch.arange(before, cached + prompt))
        positions += [torch.arange(cached + prompt, cached + prompt + length) for length in lengths]
        sources += _sources(block.replies - 1 if own else shared - 1, block.replies, lengths)
        start = block.end
    sizes = torch.tensor([length for lengths in replies for length in lengths])
    return Layout(
        cached,
        shared,
        tuple(blocks),
        torch.cat(positions),
        torch.tensor(sources),
        torch.arange(len(sizes)).repeat_interleave(sizes),
        _side_by_side_layout(blocks, before),
    )


def _check_lengths(prompts: Sequence[int], replies: Sequence[Sequence[int]]) -> None:
    """ValueError for an empty prompt or reply."""
    for i, (prompt, lengths) in enumerate(zip(prompts, replies, strict=True)):
        if prompt < 1:
            raise ValueError(f"prompt {i} is empty; give it a token")
        for branch, length in enumerate(lengths, 1):
            if length < 1:
                raise ValueError(
                    f"reply {branch} to prompt {i} is empty; leave such rows out before training"
                )


def _seen(known: int, lengths: Sequence[int]) -> Tensor:
    """What the tokens of one prompt's replies see, bool [sum(lengths), known + sum(lengths)].

    All `known` tokens before the replies, and of the replies their own, up to themselves.
    """
    own = torch.block_diag(*(torch.ones(n, n, dtype=torch.bool).tril() for n in lengths))
    return torch.cat([torch.ones(len(own), known, dtype=torch.bool), own], 1)


def _sources(last: int, first: int, lengths: Sequence[int]) -> list[int]:
    """The places that predict the tokens of one prompt's replies, which stand from place `first` on.

    A reply's first token is predicted by the prompt's last state, at `last`; the others by the token before.
    """
    found = []
    for length in lengths:
        found += [last, *range(first, first + length - 1)]
        first += length
    return found


def _side_by_side_layout(blocks: Sequence[Block], before: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """`Layout.padded` of blocks that all see `before` tokens first; None where one is long."""
    sizes = [b.end - b.start for b in blocks]
    longest = max(sizes)
    if longest > SHORT:
        return None
    place = torch.tensor([b.start for b in blocks])[:, None].repeat(1, longest)
    seen = torch.zeros(len(blocks), longest, before + longest, dtype=torch.bool)
    seen[:, :, :before] = True
    # Padding sees itself too: a softmax over nothing is no number.
    seen[:, :, before:] = torch.ones(longest, longest, dtype=torch.bool).tril()
    back = []
    for i, (block, size) in enumerate(zip(blocks, sizes, strict=True)):
        place[i, :size] = torch.arange(block.start, block.end)
        own = block.replies - block.start
        seen[i, own:size, before : before + size] = block.seen[:, before:]
        back.append(i * longest + torch.arange(size))
    return place, torch.cat(back), seen


def _check_window(body: nn.Module, layout: Layout) -> None:
    """ValueError where a prompt with its reply is longer than the model can number."""
    window, longest = getattr(body.config, "max_position_embeddings", None), int(layout.positions.max()) + 1
    if window is not None and longest > window:
        raise ValueError(
            f"a prompt and its reply have {longest} tokens, the LLM's window has {window}; shorten the history"
        )


def _check_kind(
    layout: Layout, sliding_window: int | None, softcap: float | None, sinks: Tensor | None
) -> None:
    """ValueError where a layer's attention is another than the plain causal one."""
    refused = [name for name, value in (("softcap", softcap), ("sinks", sinks)) if value is not None]
    # A window as long as all that a token may see hides nothing.
    if sliding_window is not None and int(layout.positions.max()) + 1 > sliding_window:
        refused.append(f"a sliding window of {sliding_window} tokens, less than a prompt with its reply")
    if refused:
        raise ValueError(
            f"the LLM's attention has {' and '.join(refused)}, which are not computed; take another LLM"
        )


def branched_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, layout: Layout,
    scaling: float, sliding_window: int | None = None, softcap: float | None = None,
    s_aux: Tensor | None = None, **_,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention over the row, each block by itself; the interface is transformers'.

    query [1, heads, N, d]; key, value [1, kv_heads, cached + N, d], what was cached first. Returns
    [1, N, heads, d]. No token is compared with another block's: the cost is that of the blocks alone.
    ValueError for what is not computed here: a sliding window that a prompt with its reply does not fit, capped
    scores (softcap) and sinks (s_aux).
    """
    _check_kind(layout, sliding_window, softcap, s_aux)
    dtype = query.dtype
    if query.device.type == "cpu":
        # The fused kernel's backward is three times as fast in fp32 there.
        query, key, value = query.float(), key.float(), value.float()
    attend = _side_by_side if layout.padded is not None else _block_by_block
    return attend(query, key, value, layout, scaling).transpose(1, 2).to(dtype), None


def _side_by_side(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float) -> Tensor:
    """All blocks in one call, padded to the longest; alike blocks leave little to pad."""
    place, back, seen = layout.padded
    before = layout.cached + layout.shared
    rows, longest = place.shape

    def blocks(t: Tensor, start: int) -> Tensor:
        """[1, heads, *, d] -> [rows, heads, longest, d]"""
        return t[0].index_select(1, start + place.flatten()).unflatten(1, (rows, longest)).transpose(0, 1)

    def with_shared(t: Tensor) -> Tensor:
        return torch.cat([t[:, :, :before].expand(rows, -1, -1, -1), blocks(t, layout.cached)], 2)

    own = _fused(blocks(query, 0), with_shared(key), with_shared(value), seen[:, None], scaling)
    own = own.transpose(0, 1).flatten(1, 2).index_select(1, back)[None]
    if not layout.shared:
        return own
    first = query[:, :, : layout.shared], key[:, :, :before], value[:, :, :before]
    return torch.cat([_attend(*first, None, scaling), own], 2)


def _block_by_block(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float) -> Tensor:
    """Each block in calls of its own: nothing is padded, and a prompt is causal without a mask."""
    own = [size for b in layout.blocks for size in (b.replies - b.start, b.end - b.replies)]
    before = layout.cached + layout.shared
    # Taken apart by one split each, whose backward is one concatenation; a slice's would be a tensor of zeros
    # of the whole row's length.
    first, *queries = query.split([layout.shared, *own], 2)
    (first_key, *keys), (first_value, *values) = (t.split([before, *own], 2) for t in (key, value))
    parts = [_attend(first, first_key, first_value, None, scaling)] if layout.shared else []
    for i, block in enumerate(layout.blocks):
        prompt, reply = 2 * i, 2 * i + 1
        if block.replies > block.start:
            known = torch.cat([first_key, keys[prompt]], 2), torch.cat([first_value, values[prompt]], 2)
            parts.append(_attend(queries[prompt], *known, None, scaling))
        known = (
            torch.cat([first_key, keys[prompt], keys[reply]], 2),
            torch.cat([first_value, values[prompt], values[reply]], 2),
        )
        parts.append(_attend(queries[reply], *known, block.seen, scaling))
    return torch.cat(parts, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scaling: float) -> Tensor:
    """The queries are the last positions of the keys, and causal where `seen` does not say more."""
    offset = key.shape[2] - query.shape[2]
    if seen is None and offset:
        seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril(offset)
    return _fused(query, key, value, seen, scaling)


def _fused(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scaling: float) -> Tensor:
    """One call that a fused kernel takes; causal without a mask. Keys and values are repeated for it where they must be."""
    grouped = seen is None or query.device.type in GROUPED
    if not grouped:
        times = query.shape[1] // key.shape[1]
        key, value = (t.repeat_interleave(times, 1) for t in (key, value))
    return F.scaled_dot_product_attention(
        query, key, value, seen, is_causal=seen is None, scale=scaling, enable_gqa=grouped
    )


def attention_form(device: torch.device) -> str:
    """How `branched_attention` computes there, in a few words."""
    return "grouped heads" if device.type in GROUPED else "keys and values repeated under a mask"


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
