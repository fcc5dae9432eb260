"""Prompts that grow out of each other, read once: how likely given replies are after each, and how each goes on.

The exchanges of a dialogue have prompts that begin alike: a history is the one before it and a line more. Such prompts are a
family. What two of them share is read once, and what is read for the likelihoods of replies is not read again to go on from
it. A family's tokens stand in one row, the replies last, and each sees the path that leads to it; nothing is padded. Then all
prompts go on greedily together, a token each a step, over the keys and values that are there. Frozen models only. Knows
nothing of text or dialogues.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from model.branches import attention_by
from model.llm import CachedPrefix, body_and_head, shared_length
from model.token_log_probs import token_log_probs

ATTENTION = "prompt_tree"
"""Name under which transformers knows `tree_attention`."""


class Read(NamedTuple):
    """Of a prompt: the `tokens` it goes on with, greedily; of each reply that was given its log-probabilities, fp32 [n]."""

    tokens: list[int]
    log_probs: list[Tensor]


@torch.no_grad()
def read_prompts(
    llm: nn.Module,
    kept: CachedPrefix,
    prompts: Sequence[Tensor],
    replies: Sequence[Sequence[Tensor]],
    stop_id: int,
    max_new_tokens: int,
) -> list[Read]:
    """Of each prompt how likely its replies are, and its greedy continuation up to `stop_id`, that included.

    prompts: input embeddings [T_i, d], those that begin alike one after the other. kept: what they may begin with. replies: of
    each prompt token ids [n] (n >= 1), or none. max_new_tokens: 0 lets none go on. ValueError for an attention that is not
    computed here: a sliding window that a prompt with its reply does not fit, capped scores (softcap), and sinks.
    """
    body, head = body_and_head(llm)
    table = llm.get_input_embeddings()
    found: list[Read] = []
    rows: list[_Row] = []
    with attention_by(body, ATTENTION):
        for several in _families(prompts, kept.embeddings):
            family = _Family(prompts[several], replies[several], kept, max_new_tokens)
            hidden = _through(body, family.embeddings(table), [family.whole()])
            for number, scores in enumerate(family.scores(head, hidden)):
                found.append(Read([], scores))
                rows.append(_Row(family, number, hidden[family.last(number)], found[-1].tokens))
        if max_new_tokens:
            _go_on(body, head, table, rows, stop_id, max_new_tokens)
    return found


def _families(prompts: Sequence[Tensor], start: Tensor) -> Iterator[slice]:
    """Prompts one after the other that share more than what all may begin with."""
    first = 0
    for at, two in enumerate(pairwise(prompts), 1):
        if shared_length(two) <= shared_length([start, two[1]]):
            yield slice(first, at)
            first = at
    if prompts:
        yield slice(first, len(prompts))


class _Look(NamedTuple):
    """Tokens at `columns` of a step, and the `places` of their family's keys that they see, as far as `seen` says so:
    bool [columns, places]."""

    columns: Tensor
    places: Tensor | slice
    seen: Tensor


class _Part(NamedTuple):
    """What a step reads of one family: its tokens' positions [n], the place that the first one's key is put at, and looks
    whose columns are counted from that token."""

    family: _Family
    positions: Tensor
    place: int
    looks: list[_Look]


class _Family:
    """Prompts, each of which goes on from what it shares with the one before; their replies; and all keys and values.

    Places are counted in these: the kept start comes first, then what each prompt has of its own, then the replies, and over
    these later what the prompts go on with.
    """

    def __init__(
        self, prompts: Sequence[Tensor], replies: Sequence[Sequence[Tensor]], kept: CachedPrefix, new: int
    ):
        # A prompt's last token is read in any case: what comes after follows from it.
        known = [min(shared_length([kept.embeddings, p]), len(p) - 1) for p in prompts]
        self.start, self.replies = min(known), replies
        common = [self.start, *(max(self.start, shared_length(two)) for two in pairwise(prompts))]
        self.own = [prompt[shared:] for prompt, shared in zip(prompts, common, strict=True)]
        ends = list(accumulate(map(len, self.own), initial=self.start))
        self.paths = [
            torch.arange(self.start)
        ]  # of each prompt the places of its tokens, the start's included
        for shared, (first, end) in zip(common, pairwise(ends), strict=True):
            self.paths.append(torch.cat([self.paths[-1][:shared], torch.arange(first, end)]))
        del self.paths[0]
        self.common, self.filled = common, ends[-1]
        room = self.filled + max(sum(len(r) for row in replies for r in row), new * len(prompts))
        self.seen = torch.zeros(len(prompts), room, dtype=torch.bool)
        for row, path in zip(self.seen, self.paths, strict=True):
            row[path] = True
        # [layers][kv_heads, room, head_dim]
        self.keys = [_with_room(keys, self.start, room) for keys, _ in kept.cache]
        self.values = [_with_room(values, self.start, room) for _, values in kept.cache]

    def last(self, number: int) -> int:
        """The column of a prompt's last token in `whole`."""
        return int(self.paths[number][-1]) - self.start

    def embeddings(self, table: nn.Module) -> Tensor:
        """Input embeddings of `whole` [N, d]."""
        device = self.own[0].device
        return torch.cat([*self.own, *(table(r.to(device)) for row in self.replies for r in row)])

    def whole(self) -> _Part:
        """All prompts and replies: each prompt's own tokens and its replies look together."""
        positions, of_replies, looks = [], [], []
        place = self.filled
        for path, shared, replies in zip(self.paths, self.common, self.replies, strict=True):
            lengths = [len(reply) for reply in replies]
            own, said = path[shared:], torch.arange(place, place := place + sum(lengths))
            positions.append(torch.arange(shared, len(path)))
            of_replies += [torch.arange(len(path), len(path) + length) for length in lengths]
            tokens = [torch.ones(len(own), len(own)), *(torch.ones(n, n) for n in lengths)]
            seen = torch.ones(len(own) + len(said), len(path) + len(said), dtype=torch.bool)
            seen[:, shared:] = torch.block_diag(*tokens).tril().bool()
            seen[len(own) :, shared : len(path)] = True
            looks.append(self._look(torch.cat([own, said]) - self.start, torch.cat([path, said]), seen))
        return _Part(self, torch.cat([*positions, *of_replies]), self.start, looks)

    def scores(self, head: nn.Module, hidden: Tensor) -> list[list[Tensor]]:
        """Log-probabilities of the tokens of every reply, of the hidden states of `whole` [N, d]."""
        sources, column = [], self.filled - self.start
        for number, row in enumerate(self.replies):
            for reply in row:
                sources += [self.last(number), *range(column, column + len(reply) - 1)]
                column += len(reply)
        if not sources:
            return [[] for _ in self.replies]
        targets = torch.cat([reply for row in self.replies for reply in row]).to(hidden.device)
        log_probs, _ = token_log_probs(head, hidden[sources], targets)
        each = iter(log_probs.split([len(reply) for row in self.replies for reply in row]))
        return [[next(each) for _ in row] for row in self.replies]

    def one_more(self, rows: Sequence[_Row]) -> _Part:
        """The newest token of each of these rows, all of this family."""
        place, numbers = self.filled, [row.number for row in rows]
        self.filled += len(rows)
        self.seen[numbers, range(place, self.filled)] = True
        places = slice(0, self.filled)
        look = self._look(torch.arange(len(rows)), places, self.seen[numbers, : self.filled])
        positions = [len(self.paths[row.number]) + len(row.tokens) - 1 for row in rows]
        return _Part(self, torch.tensor(positions), place, [look])

    def _look(self, columns: Tensor, places: Tensor | slice, seen: Tensor) -> _Look:
        """On the device of the keys."""
        device = self.keys[0].device
        places = places if isinstance(places, slice) else places.to(device)
        return _Look(columns.to(device), places, seen.to(device))


def _with_room(kept: Tensor, start: int, room: int) -> Tensor:
    """Keys or values [kv_heads, room, head_dim] that begin with the kept ones [1, kv_heads, P, head_dim]."""
    found = kept.new_empty(kept.shape[1], room, kept.shape[3])
    found[:, :start] = kept[0, :, :start]
    return found


@dataclass(eq=False)
class _Row:
    """A prompt while it goes on: its number in the family, the state that its next token follows from [d], its tokens."""

    family: _Family
    number: int
    state: Tensor
    tokens: list[int]


def _go_on(
    body: nn.Module, head: nn.Module, table: nn.Module, rows: list[_Row], stop_id: int, most: int
) -> None:
    """The likeliest token after each row, step by step, until it has ended or has as many as it may."""
    while rows:
        drawn = head(torch.stack([row.state for row in rows])).argmax(-1).tolist()
        for row, token in zip(rows, drawn, strict=True):
            row.tokens.append(token)
        rows = [row for row in rows if row.tokens[-1] != stop_id and len(row.tokens) < most]
        if rows:
            newest = torch.tensor([row.tokens[-1] for row in rows], device=rows[0].state.device)
            parts = [family.one_more(list(its)) for family, its in groupby(rows, key=lambda row: row.family)]
            for row, state in zip(rows, _through(body, table(newest), parts), strict=True):
                row.state = state


def _through(body: nn.Module, given: Tensor, parts: Sequence[_Part]) -> Tensor:
    """Hidden states [N, d] of input embeddings [N, d], which are those of the parts, side by side."""
    positions = torch.cat([part.positions for part in parts]).to(given.device)
    told = body(inputs_embeds=given[None], position_ids=positions[None], use_cache=False, parts=parts)
    return told.last_hidden_state[0]


def tree_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, parts: Sequence[_Part],
    scaling: float, sliding_window: int | None = None, softcap: float | None = None,
    s_aux: Tensor | None = None, **_,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention of the parts' tokens to their families' keys; the interface is transformers'.

    query [1, heads, N, d]; key, value [1, kv_heads, N, d] of the same tokens, which their families take in. Returns
    [1, N, heads, d]. ValueError as `read_prompts`.
    """
    _check_kind(max(int(part.positions.max()) for part in parts), sliding_window, softcap, s_aux)
    kv_heads = key.shape[1]
    grouped = query[0].unflatten(0, (kv_heads, -1))  # [kv_heads, heads of each, N, d]
    out = torch.empty_like(grouped)
    first = 0
    for part in parts:
        end = first + len(part.positions)
        keys, values = part.family.keys[module.layer_idx], part.family.values[module.layer_idx]
        for kept, new in ((keys, key), (values, value)):
            kept[:, part.place : part.place + end - first] = new[0, :, first:end]
        for columns, places, seen in part.looks:
            # The heads that share keys look together: [1, kv_heads, heads of each x columns, d].
            asked = grouped[:, :, first + columns].flatten(1, 2)[None]
            told = F.scaled_dot_product_attention(
                asked, keys[None, :, places], values[None, :, places],
                seen.repeat(grouped.shape[1], 1), scale=scaling,
            )  # fmt: skip
            out[:, :, first + columns] = told[0].unflatten(1, (grouped.shape[1], -1))
        first = end
    return out.flatten(0, 1).transpose(0, 1)[None], None


def _check_kind(last: int, sliding_window: int | None, softcap: float | None, sinks: Tensor | None) -> None:
    """ValueError where a layer's attention is another than the plain causal one; last: the greatest position."""
    refused = [name for name, value in (("softcap", softcap), ("sinks", sinks)) if value is not None]
    # A window as long as all that a token may see hides nothing.
    if sliding_window is not None and last + 1 > sliding_window:
        refused.append(f"a sliding window of {sliding_window} tokens, less than a prompt with its reply")
    if refused:
        raise ValueError(
            f"the LLM's attention has {' and '.join(refused)}, which are not computed; take another LLM"
        )


AttentionInterface.register(ATTENTION, tree_attention)
