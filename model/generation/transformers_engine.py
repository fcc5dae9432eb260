"""Batched sampling with Hugging Face transformers: the engine where vLLM is absent.

Prompts and answers as text; how tokens are drawn is model/generation/batched.py. Knows nothing of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import __version__ as _version

from model.device import best_device
from model.generation.batched import BatchedSampler, Row
from model.generation.chat import Chat
from model.generation.protocol import Generation, GenerationRequest
from model.generation.reply import reply_of
from model.generation.settings import EngineSettings
from model.llm import load_weights

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TransformersEngine:
    """A causal LLM from a local folder, on the GPU where there is one."""

    version = f"transformers {_version}"

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.chat = Chat(settings.model)
        model = load_weights(settings.model, _DTYPES[settings.args.dtype])
        self.model = model.to(best_device()).eval()

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[Generation]:
        """Answer every request; rows come as they finish, not in order."""
        rows = []
        for request in requests:
            prompt = self.chat.prompt_of(request)
            if len(prompt) + self.settings.sampling.max_new_tokens > self.settings.args.max_model_len:
                yield Generation(request.key, "", "too_long", "transformers", len(prompt), 0)
            else:
                generator = torch.Generator().manual_seed(request.seed)
                rows.append(Row(request.key, torch.tensor(prompt), generator))
        sampler = BatchedSampler(
            self.model, self.chat.stop_ids, self.settings.sampling, self.settings.args.batch_size
        )
        for row, reason in sampler.sample(rows):
            yield answer(self.chat, row, reason)


def answer(chat: Chat, row: Row, reason: str) -> Generation:
    """A finished row as text."""
    reply = reply_of(chat.decode(row.new), reason)
    return Generation(row.key, reply.text, reply.finish_reason, "transformers", len(row.prompt), len(row.new))
