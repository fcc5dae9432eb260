"""Samples of a finetuned dialogue model in its own prompt: candidates that are on policy for EPO.

The adapter is merged in fp32 and the result cast once: merged into bf16 weights, most of what was trained would be
rounded away twice. Knows nothing of exchanges' rows, of usable candidates or of processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from model.adapter import load_adapter
from model.dialogue.dialogue import DialogueModel, HistoryForm, load_parts, own_compressor
from model.dialogue.examples import DialogueExample
from model.dialogue.settings import DialogueSettings
from model.generation.batched import BatchedSampler, Row
from model.generation.chat import Chat
from model.generation.protocol import Generation, Message, request_seed
from model.generation.settings import Sampling
from model.generation.transformers_engine import answer
from model.llm import embed, load_llm
from model.pretrained import from_folder, in_dtype

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = ("*.safetensors", "*.bin", "*.index.json", "config.json")
"""What a merged folder has of its own; the rest is the LLM's."""


def merged(llm_folder: Path, adapter: Path, dtype: str) -> tuple[nn.Module, object]:
    """The LLM with the adapter merged into it in fp32 and cast to `dtype`, frozen, and its tokenizer.

    Of weights that are stored in bf16 those alone are ever in fp32 that the adapter changes: all of a 7B are 30 GB.
    """
    llm, tokenizer = load_llm(llm_folder, exact_dtype(llm_folder))
    whole = load_adapter(llm, adapter, to_merge=True).merge_and_unload()
    return in_dtype(whole, DTYPES[dtype]).requires_grad_(False).eval(), tokenizer


def exact_dtype(llm_folder: Path) -> str:
    """The narrowest that an LLM can be loaded in, of those it can be, and nothing is rounded."""
    stored = set()
    for path in Path(llm_folder).glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            stored |= {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    return "bfloat16" if stored == {"BF16"} else "float32"


def write_merged(llm_folder: Path, adapter: Path, dtype: str, out: Path) -> None:
    """`merged` as a folder that any engine loads, in `out`."""
    llm, _ = merged(llm_folder, adapter, dtype)
    shutil.copytree(llm_folder, out, ignore=shutil.ignore_patterns(*WEIGHTS), dirs_exist_ok=True)
    kept = out / "generation_config.json"
    generation_config = kept.read_bytes() if kept.is_file() else None
    llm.save_pretrained(out, safe_serialization=True)
    if generation_config is None:
        kept.unlink(missing_ok=True)
    else:  # which tokens end a turn is the LLM's own to say
        kept.write_bytes(generation_config)


def text_prompts(
    llm_folder: Path, examples: Sequence[DialogueExample], settings: DialogueSettings, reply: int
) -> list[list[int] | None]:
    """Token ids of each example's prompt, its history as text; None where it leaves no room for `reply` tokens.

    Of the LLM its shape and tokenizer are read, and no weights.
    """
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(from_folder(AutoConfig, llm_folder))
    model = DialogueModel(llm, from_folder(AutoTokenizer, llm_folder), "text", settings=settings)
    found = model.fitting_pieces(examples, {}, reply)
    return [None if pieces is None else torch.cat(pieces).tolist() for pieces in found]


@dataclass(frozen=True)
class Draw:
    """One sample that is asked for: of an example, by a seed. key: comes back with the answer."""

    key: str
    example: DialogueExample
    seed: int


def sample_of(example: DialogueExample, number: int, sampling: Sampling) -> Draw:
    """The example's sample of that number, by the key EXAMPLE#NUMBER; its seed is of what is said, never of ids, so that
    equal dialogues draw alike."""
    said = (*(utterance.line for utterance in example.history), example.sentence)
    shown: tuple[Message, ...] = tuple({"role": "user", "content": line} for line in said)
    return Draw(f"{example.key}#{number}", example, request_seed(shown, sampling, number))


class DialogueSampler:
    """The dialogue model of an adapter, merged, whose prompts hold memories and clips' embeddings."""

    def __init__(
        self,
        llm_folder: Path,
        adapter: Path,
        compressor: Path | None,
        extractor: Path | None,
        history: HistoryForm,
        dtype: str,
        settings: DialogueSettings,
    ):
        self.chat = Chat(llm_folder)
        llm, tokenizer = merged(llm_folder, adapter, dtype)
        compressor = own_compressor(adapter) or compressor
        compressor = compressor if history == "memory" and settings.memory == "mamba" else None
        self.model = DialogueModel(
            llm, tokenizer, history, *load_parts(llm, tokenizer, compressor, extractor), settings
        )

    @torch.no_grad()
    def prompts(self, examples: Sequence[DialogueExample], reply: int) -> list[torch.Tensor | None]:
        """Input embeddings [T, d] of each; None where it leaves no room for `reply` tokens."""
        found = self.model.fitting_pieces(examples, None, reply)
        return [None if pieces is None else embed(self.model.llm, pieces) for pieces in found]

    def sample(self, draws: Sequence[Draw], sampling: Sampling, batch_size: int) -> Iterator[Generation]:
        """Answer every draw; draws of one example come together, since its prompt is then encoded once."""
        for start in range(0, len(draws), batch_size):
            batch = draws[start : start + batch_size]
            examples = {draw.example.key: draw.example for draw in batch}
            found = self.prompts(list(examples.values()), sampling.max_new_tokens)
            prompts = dict(zip(examples, found, strict=True))
            rows = []
            for draw in batch:
                prompt = prompts[draw.example.key]
                if prompt is None:
                    yield Generation(draw.key, "", "too_long", "transformers", 0, 0)
                else:
                    rows.append(Row(draw.key, prompt, torch.Generator().manual_seed(draw.seed)))
            sampler = BatchedSampler(self.model.llm, self.chat.stop_ids, sampling, batch_size)
            for row, reason in sampler.sample(rows):
                yield answer(self.chat, row, reason)
