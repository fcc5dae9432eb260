"""Replies token by token, several at once: a row joins while others are under way and leaves when it has ended.

Prompts are input embeddings. Rows are left-padded in one key-value cache; a new one is read by itself, from what its
prompt begins with where that is kept, and its keys and values join those of the others. Each row draws from its own
generator, so its tokens do not depend on the rows beside it, as far as the precision allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from model.generation.forward import next_logits
from model.generation.sampling import draw_tokens
from model.generation.settings import Sampling
from model.llm import CachedPrefix, filled_cache, shared_length

_BROKEN = "\ufffd"
"""What a character is decoded to before all of its bytes are there."""


@dataclass(eq=False)
class Row:
    """A reply while it is made. prompt: input embeddings [T, d], or where vLLM decodes also token ids [T]. ended: "stop",
    "length" or None while it goes on."""

    prompt: Tensor
    sampling: Sampling
    generator: torch.Generator = field(init=False)
    tokens: list[int] = field(default_factory=list)
    ended: str | None = None

    def __post_init__(self) -> None:
        # Random numbers come from the CPU on every machine.
        self.generator = torch.Generator().manual_seed(self.sampling.seed)


class Decoder(Protocol):
    """What is asked of whoever decodes rows step by step."""

    rows: list[Row]
    """Those under way."""

    def join(self, row: Row) -> None: ...

    def step(self) -> Sequence[Row]:
        """More of every row; the ones that ended with it leave."""
        ...

    def leave(self, gone: Sequence[Row]) -> None:
        """The rows go, ended or not."""
        ...


class StreamingDecoder:
    """llm: frozen, in eval mode. kept: what prompts begin with, encoded once, if it is."""

    def __init__(self, llm: nn.Module, stop_ids: Sequence[int], kept: CachedPrefix | None = None):
        self.llm, self.stop_ids, self.kept = llm, frozenset(stop_ids), kept
        self.rows: list[Row] = []
        self._cache: DynamicCache | None = None
        self._mask: Tensor | None = None  # [rows, positions]

    @torch.inference_mode()
    def join(self, row: Row) -> None:
        """Read the row's prompt and draw its first token; it is one of `rows` unless it has ended with that."""
        cache = DynamicCache()
        known = 0
        if self.kept is not None:
            # The prompt's last position is read in any case: its first token follows from it.
            known = min(shared_length([self.kept.embeddings, row.prompt]), len(row.prompt) - 1)
            cache = filled_cache(self.kept.cut(known)) if known else cache
        mask = torch.ones(1, len(row.prompt), dtype=torch.long, device=row.prompt.device)
        logits = next_logits(self.llm, row.prompt[None, known:], mask, cache)
        self._draw(row, logits[0])
        if row.ended is None:
            self._take_in(row, cache, mask)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """One more token of every row; returns those rows. The ones that ended with it leave."""
        rows = list(self.rows)
        if not rows:
            return []
        assert self._mask is not None and self._cache is not None, "there are rows"
        self._mask = F.pad(self._mask, (0, 1), value=1)
        last = torch.tensor([[row.tokens[-1]] for row in rows], device=self._mask.device)
        logits = next_logits(self.llm, last, self._mask, self._cache)
        for row, scores in zip(rows, logits, strict=True):
            self._draw(row, scores)
        self.leave([row for row in rows if row.ended is not None])
        return rows

    def leave(self, gone: Sequence[Row]) -> None:
        """The rows go, ended or not, and with them the padding that nobody needs any more."""
        if not gone:
            return
        staying = [at for at, row in enumerate(self.rows) if row not in gone]
        self.rows = [self.rows[at] for at in staying]
        if not self.rows:
            self._cache = self._mask = None
            return
        assert self._mask is not None and self._cache is not None, "there are rows"
        at = torch.tensor(staying, device=self._mask.device)
        mask = self._mask[at]
        padding = int(mask.argmax(1).min())
        self._mask = mask[:, padding:]
        self._cache = _cache(
            [(k[at][:, :, padding:], v[at][:, :, padding:]) for k, v in _layers(self._cache)]
        )

    def _take_in(self, row: Row, cache: DynamicCache, mask: Tensor) -> None:
        """The row's keys and values beside those of the others, the shorter ones padded on the left."""
        self.rows.append(row)
        if self._cache is None or self._mask is None:
            self._cache, self._mask = cache, mask
            return
        longest = max(self._mask.shape[1], mask.shape[1])
        self._mask = torch.cat([F.pad(m, (longest - m.shape[1], 0)) for m in (self._mask, mask)])
        both = zip(_layers(self._cache), _layers(cache), strict=True)
        self._cache = _cache(
            [(_beside(k, more_k, longest), _beside(v, more_v, longest)) for (k, v), (more_k, more_v) in both]
        )

    def _draw(self, row: Row, logits: Tensor) -> None:
        """The row's next token, of logits [vocabulary]."""
        uniform = torch.rand(1, generator=row.generator, dtype=torch.float64).to(logits.device)
        token = draw_tokens(logits[None], uniform, row.sampling.temperature, row.sampling.top_p)
        row.tokens.append(int(token))
        if row.tokens[-1] in self.stop_ids:
            row.ended = "stop"
        elif len(row.tokens) >= row.sampling.max_new_tokens:
            row.ended = "length"


def readable(tokenizer, tokens: Sequence[int], ended: bool) -> str:
    """The text of a reply as far as it will stay: a character whose bytes are not all there yet waits, and so do
    spaces at the end."""
    text = _decoded(tokenizer, tokens).strip()
    return text if ended else text.rstrip(_BROKEN).rstrip()


def continued(tokenizer, tokens: Sequence[int], ended: bool) -> str:
    """As `readable`, with the spaces around it: what goes on from a text may begin with one."""
    text = _decoded(tokenizer, tokens)
    return text if ended else text.rstrip(_BROKEN)


def _decoded(tokenizer, tokens: Sequence[int]) -> str:
    return tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _beside(rows: Tensor, more: Tensor, length: int) -> Tensor:
    """Keys or values [rows, heads, positions, d] of both, each padded on the left to `length` positions."""
    return torch.cat([F.pad(part, (0, 0, length - part.shape[2], 0)) for part in (rows, more)])


def _layers(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def _cache(layers: Sequence[tuple[Tensor, Tensor]]) -> DynamicCache:
    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache
