"""Sampling with a causal LLM in this process, many rows at a time, from token ids or from input embeddings.

Rows are left-padded and decoded together with a key-value cache; each draws from its own generator, so a row's
tokens do not depend on the rows beside it, as far as the precision allows. A prompt that several rows share is encoded
once a batch. Knows nothing of text or of processes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from model.generation.forward import next_logits
from model.generation.sampling import draw_tokens
from model.generation.settings import Sampling


@dataclass
class Row:
    """A row while it is decoded. prompt: token ids [T], or input embeddings [T, d], in one batch all of one kind."""

    key: str
    prompt: Tensor
    generator: torch.Generator
    new: list[int] = field(default_factory=list)

    @property
    def same(self) -> Hashable:
        """Equal for rows that share their prompt: of embeddings, the very same tensor."""
        return id(self.prompt) if self.prompt.is_floating_point() else tuple(self.prompt.tolist())


@dataclass(frozen=True)
class BatchedSampler:
    """model: a causal LLM in eval mode. stop_ids: the tokens that end a turn."""

    model: nn.Module
    stop_ids: tuple[int, ...]
    sampling: Sampling
    batch_size: int

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def sample(self, rows: Sequence[Row]) -> Iterator[tuple[Row, str]]:
        """Each row with the tokens it drew, `new`, and how it ended: "stop" or "length"; as they finish."""
        # Prompts of like length share a batch, so that little is spent on padding.
        rows = sorted(rows, key=lambda row: len(row.prompt))
        for start in range(0, len(rows), self.batch_size):
            yield from self._decode(rows[start : start + self.batch_size])

    def _decode(self, rows: list[Row]) -> Iterator[tuple[Row, str]]:
        """Decode one batch; finished rows leave it at once."""
        numbered = {same: at for at, same in enumerate(dict.fromkeys(row.same for row in rows))}
        prompts = {row.same: row.prompt for row in rows}
        given, mask = self._pad([prompts[same] for same in numbered])
        cache = DynamicCache(config=self.model.config)
        logits = next_logits(self.model, given, mask, cache)
        if len(numbered) < len(rows):
            place = torch.tensor([numbered[row.same] for row in rows], device=self.device)
            logits, mask = logits[place], mask[place]
            cache.batch_select_indices(place)
        while True:
            drawn = self._draw(logits, rows)
            going = []
            for at, (row, token) in enumerate(zip(rows, drawn.tolist(), strict=True)):
                row.new.append(token)
                reason = self._finish_reason(row)
                if reason is None:
                    going.append(at)
                else:
                    yield row, reason
            if not going:
                return
            if len(going) < len(rows):
                keep = torch.tensor(going, device=self.device)
                rows, drawn, mask = [rows[at] for at in going], drawn[keep], mask[keep]
                cache.batch_select_indices(keep)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits = next_logits(self.model, drawn[:, None], mask, cache)

    def _pad(self, prompts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Left-padded prompts (rows, longest) or (rows, longest, d), and their mask (rows, longest)."""
        longest = max(len(prompt) for prompt in prompts)
        # What stands on a padded place is masked: any valid id does, and any embedding.
        given = torch.stack(
            [
                torch.cat(
                    [
                        prompt.new_full((longest - len(prompt), *prompt.shape[1:]), self._filler(prompt)),
                        prompt,
                    ]
                )
                for prompt in prompts
            ]
        )
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return given.to(self.device), torch.tensor(mask, device=self.device)

    def _filler(self, prompt: Tensor) -> float:
        return 0.0 if prompt.is_floating_point() else self.stop_ids[0]

    @torch.inference_mode()
    def _draw(self, logits: Tensor, rows: list[Row]) -> Tensor:
        # Random numbers come from the CPU on every machine.
        uniforms = torch.stack([torch.rand((), generator=row.generator, dtype=torch.float64) for row in rows])
        return draw_tokens(logits, uniforms.to(self.device), self.sampling.temperature, self.sampling.top_p)

    def _finish_reason(self, row: Row) -> str | None:
        if row.new[-1] in self.stop_ids:
            return "stop"
        return "length" if len(row.new) == self.sampling.max_new_tokens else None
