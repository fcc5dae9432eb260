"""Batched sampling with Hugging Face transformers: the engine where vLLM is absent.

Rows are left-padded and decoded together with a key-value cache; each draws from its own generator, so a row's
text does not depend on the rows beside it, as far as the precision allows. Knows nothing of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers import __version__ as _version

from model.generation.chat import Chat
from model.generation.protocol import Generation, GenerationRequest
from model.generation.reply import reply_of
from model.generation.sampling import draw_tokens
from model.generation.settings import EngineSettings
from model.llm import load_weights

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class _Row:
    """A row while it is decoded."""

    key: str
    prompt: list[int]
    generator: torch.Generator
    new: list[int] = field(default_factory=list)


class TransformersEngine:
    """A causal LLM from a local folder, on the GPU where there is one."""

    version = f"transformers {_version}"

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.chat = Chat(settings.model)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_weights(settings.model, _DTYPES[settings.args.dtype])
        self.model = model.to(self.device).eval()

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[Generation]:
        """Answer every request; rows come as they finish, not in order."""
        rows = []
        for request in requests:
            prompt = self.chat.encode(request.messages)
            if len(prompt) + self.settings.sampling.max_new_tokens > self.settings.args.max_model_len:
                yield Generation(request.key, "", "too_long", "transformers", len(prompt), 0)
            else:
                rows.append(_Row(request.key, prompt, torch.Generator().manual_seed(request.seed)))
        # Prompts of like length share a batch, so that little is spent on padding.
        rows.sort(key=lambda row: len(row.prompt))
        size = self.settings.args.batch_size
        for start in range(0, len(rows), size):
            yield from self._decode(rows[start : start + size])

    def _decode(self, rows: list[_Row]) -> Iterator[Generation]:
        """Decode one batch; finished rows leave it at once."""
        tokens, mask = self._pad([row.prompt for row in rows])
        cache = DynamicCache(config=self.model.config)
        while rows:
            logits = self._forward(tokens, mask, cache)
            drawn = self._draw(logits, rows)
            going = []
            for place, (row, token) in enumerate(zip(rows, drawn.tolist(), strict=True)):
                row.new.append(token)
                reason = self._finish_reason(row)
                if reason is None:
                    going.append(place)
                else:
                    reply = reply_of(self.chat.decode(row.new), reason)
                    yield Generation(
                        row.key,
                        reply.text,
                        reply.finish_reason,
                        "transformers",
                        len(row.prompt),
                        len(row.new),
                    )
            if not going:
                return
            if len(going) < len(rows):
                keep = torch.tensor(going, device=self.device)
                rows, drawn, mask = [rows[place] for place in going], drawn[keep], mask[keep]
                cache.batch_select_indices(keep)
            tokens = drawn[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)

    def _pad(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Left-padded token ids and their mask, both (rows, longest prompt)."""
        longest = max(len(prompt) for prompt in prompts)
        # What stands on a padded place is masked: any valid id does.
        filler = self.chat.stop_ids[0]
        tokens = [[filler] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(tokens, device=self.device), torch.tensor(mask, device=self.device)

    @torch.inference_mode()
    def _forward(self, tokens: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits of the next token, (rows, vocabulary), float32."""
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    @torch.inference_mode()
    def _draw(self, logits: Tensor, rows: list[_Row]) -> Tensor:
        # Random numbers come from the CPU on every machine.
        uniforms = torch.stack([torch.rand((), generator=row.generator, dtype=torch.float64) for row in rows])
        sampling = self.settings.sampling
        return draw_tokens(logits, uniforms.to(self.device), sampling.temperature, sampling.top_p)

    def _finish_reason(self, row: _Row) -> str | None:
        if row.new[-1] in self.chat.stop_ids:
            return "stop"
        return "length" if len(row.new) == self.settings.sampling.max_new_tokens else None
