"""Greedy replies of dialogue models of before chat LLMs, through Hugging Face transformers.

Of two kinds: a causal LM (DialoGPT, arXiv 1911.00536) and an encoder-decoder (BlenderBot, arXiv 2004.13637). Both are
given the turns of a dialogue and no instruction. Knows nothing of processes or of what the text is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers import __version__ as _version

from model.device import best_device
from model.generation.protocol import Generation, GenerationRequest, Message
from model.generation.reply import reply_of
from model.generation.settings import EngineSettings
from model.pretrained import from_folder, whole_model

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

TURNS_AFTER_ONE_ANOTHER = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
"""Where a causal model's tokenizer has no template: as DialoGPT was trained."""
TURNS_SPACED = (
    "{% for m in messages %} {{ m['content'] }}{% if not loop.last %}  {% endif %}{% endfor %}{{ eos_token }}"
)
"""Where an encoder-decoder's tokenizer has none: as BlenderBot reads them."""


class ChatbotEngine:
    """A dialogue model from a local folder, on the GPU where there is one.

    Replies are greedy, as those of every system: of the sampling settings the number of new tokens alone is read, and the
    model's own beam search and lengths are not used. A dialogue that is longer than the model's window loses its oldest turns.
    """

    version = f"transformers {_version}"

    def __init__(self, settings: EngineSettings) -> None:
        """Raises ValueError when the folder's tokenizer has no end-of-turn token, or its weights are not whole."""
        config = from_folder(AutoConfig, settings.model)
        self.reads_apart: bool = config.is_encoder_decoder
        self.tokenizer = from_folder(AutoTokenizer, settings.model)
        self.end: int | None = self.tokenizer.eos_token_id
        if self.end is None:
            raise ValueError(f"{settings.model}: no end-of-turn token in the tokenizer; name one there")
        if not self.tokenizer.chat_template:
            self.tokenizer.chat_template = TURNS_SPACED if self.reads_apart else TURNS_AFTER_ONE_ANOTHER
        kind = AutoModelForSeq2SeqLM if self.reads_apart else AutoModelForCausalLM
        self.device = best_device()
        self.model = (
            whole_model(kind, settings.model, dtype=_DTYPES[settings.args.dtype]).to(self.device).eval()
        )
        self.window: int = config.max_position_embeddings
        # Of an encoder-decoder the reply has a window of its own, which its first token begins.
        self.limit = min(settings.sampling.max_new_tokens, self.window - 1)
        self.batch_size = settings.args.batch_size
        self.pad: int = self.end if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            max_new_tokens=self.limit,
            eos_token_id=self.end,
            pad_token_id=self.pad,
            decoder_start_token_id=getattr(config, "decoder_start_token_id", None),
        )

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[Generation]:
        """Answer every request; rows come as they finish, not in order. A message is a turn, whoever spoke it."""
        rows = []
        for request in requests:
            prompt = self._prompt(request.messages)
            if prompt is None:
                yield Generation(request.key, "", "too_long", "chatbot", 0, 0)
            else:
                rows.append((request.key, prompt))
        rows.sort(key=lambda row: len(row[1]))
        for start in range(0, len(rows), self.batch_size):
            yield from self._replies(rows[start : start + self.batch_size])

    def _prompt(self, turns: Sequence[Message]) -> list[int] | None:
        """Token ids of the newest turns that leave room for a reply; None where the last alone leaves none."""
        room = self.window if self.reads_apart else self.window - self.limit
        for first in range(len(turns)):
            ids = self.tokenizer.apply_chat_template(list(turns[first:]), tokenize=True, return_dict=False)
            if len(ids) <= room:
                return ids
        return None

    @torch.inference_mode()
    def _replies(self, rows: list[tuple[str, list[int]]]) -> Iterator[Generation]:
        prompts, mask = self._padded([prompt for _, prompt in rows])
        out = self.model.generate(input_ids=prompts, attention_mask=mask)
        # What an encoder-decoder puts out begins with its start token, what a causal LM puts out with the prompt.
        new = out[:, 1:] if self.reads_apart else out[:, prompts.shape[1] :]
        for (key, prompt), drawn in zip(rows, new.tolist(), strict=True):
            ended = self.end in drawn
            said = drawn[: drawn.index(self.end) + 1] if ended else drawn
            text = self.tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            reply = reply_of(text.strip(), "stop" if ended else "length")
            yield Generation(key, reply.text, reply.finish_reason, "chatbot", len(prompt), len(said))

    def _padded(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask [rows, longest]: padded before where the reply goes on from the prompt, else after it."""
        longest = max(map(len, prompts))
        ids, mask = [], []
        for prompt in prompts:
            pad = longest - len(prompt)
            filler, shown = [self.pad] * pad, [1] * len(prompt)
            ids.append(prompt + filler if self.reads_apart else filler + prompt)
            mask.append(shown + [0] * pad if self.reads_apart else [0] * pad + shown)
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)
