"""MambaCompressor (paper, section 3.2 and figure 3): a dialogue becomes one memory embedding per utterance.

A dialogue is one sequence u1 <MEM> u2 <MEM> ..., so a memory knows what came before and nothing that comes
after; with a span, a <MEM> stands after every so many tokens of an utterance and at its end. What is read is the bare
utterance; who said it is marked by a vector per role, added to its memories where the LLM reads them: so the LLM sees it
whatever the Mamba does, the text's own memory is what it was in pretraining, and turn by turn costs nothing more. What
is common stands here; small.py and checkpoint.py have what sets the two kinds apart. Knows nothing of prompts, of how
the LLM uses memories, or of how the compressor is trained.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer

from model.compressor.checkpoint import checkpoint_memories, checkpoint_parts, load_checkpoint
from model.compressor.mamba import LayerState
from model.compressor.packing import pack, spans
from model.compressor.settings import CompressorSettings
from model.compressor.shape import CompressorError, CompressorShape
from model.compressor.small import small_memories, small_parts
from model.json_files import write_json
from model.llm import token_ids
from model.pretrained import from_folder
from model.spoken import Spoken
from model.weights import differing_weights

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZER = "tokenizer"
READER = "reader"
"""Folder of the LoRA adapter, in peft's layout, with which the LLM reads these memories back."""
BATCH_TOKENS = 4096
"""Most tokens, padding included, that `compress` runs at once."""


class MambaCompressor(nn.Module):
    """Token ids of the utterances of dialogues -> memories of the LLM's width, in fp32.

    A memory has the mean and the spread, dimension by dimension, of the LLM's token embeddings from the first
    step on: the frozen LLM knows no other place. The LLM's embedding table is used, never trained, never
    saved. `roles` [roles, llm_width], in spreads, starts at zero and changes no memory until it is trained; speakers
    beyond the table share its last row.
    """

    def __init__(self, shape: CompressorShape, tokenizer, llm_table: Tensor, pool_decay: float = 0.7):
        """llm_table: the LLM's input embeddings [vocabulary, llm_width]; tokenizer: what makes the ids; pool_decay:
        see CompressorSettings."""
        super().__init__()
        self.shape, self.tokenizer = shape, tokenizer
        table = llm_table.detach()
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("mean", table.float().mean(0), persistent=False)
        self.register_buffer("spread", table.float().std(0), persistent=False)
        self.mem = nn.Parameter(torch.randn(shape.hidden) * 0.02)
        self.roles = nn.Parameter(torch.zeros(shape.roles, shape.llm_width))
        parts = small_parts(shape, pool_decay) if shape.kind == "small" else checkpoint_parts(shape)
        for name, part in parts.items():
            self.add_module(name, part)

    @property
    def bare(self) -> bool:
        """Whether its memories are read back with nothing around them, instead of with table 5."""
        return self.shape.prompt == "bare"

    def read_by(self, prompt: Literal["paper", "bare"]) -> None:
        """From now on its memories are read back with table 5, or with nothing around them."""
        self.shape = self.shape.model_copy(update={"prompt": None if prompt == "paper" else prompt})

    def use_span(self, span: int | None) -> None:
        """From now on a memory covers at most `span` tokens; new places of the pool weigh what the last one did."""
        self.shape = self.shape.model_copy(update={"memory_span": span})
        if self.shape.kind == "small":
            self.pool.resize(self.shape.places)

    def counts(self, dialogue: Sequence[Spoken]) -> list[int]:
        """How many memories each utterance has."""
        if self.shape.memory_span is None:
            return [1] * len(dialogue)
        return self.counts_of([self.ids(utterance.text) for utterance in dialogue])

    def counts_of(self, utterances: Sequence[Tensor]) -> list[int]:
        """As `counts`, of token ids."""
        limit, span = self.shape.max_utterance_tokens, self.shape.memory_span
        return [len(spans(min(len(ids), limit), span)) for ids in utterances]

    def ids(self, utterance: str) -> Tensor:
        """Token ids [n] of an utterance, not cut."""
        ids = token_ids(self.tokenizer, utterance)
        if not len(ids):
            raise CompressorError("an utterance without tokens has no memory; leave it out of the history")
        return ids

    def reads_whole(self, text: str) -> bool:
        """Whether an utterance is read to its end."""
        return len(self.ids(text)) <= self.shape.max_utterance_tokens

    def memories(
        self,
        dialogues: Sequence[Sequence[Tensor]],
        roles: Sequence[Sequence[int | None]] | None = None,
    ) -> list[Tensor]:
        """Per dialogue its memories [n_memories, llm_width], from the token ids [n] of its utterances.

        roles: of each utterance the place of its speaker, or None; without roles no speaker is marked. An utterance beyond
        `max_utterance_tokens` is cut there. Rows are right-padded: nothing that stands before the padding can see it.
        """
        return self._read(dialogues, roles, None)[0]

    @torch.no_grad()
    def step(
        self, utterance: Spoken, past: Sequence[LayerState] | None = None
    ) -> tuple[Tensor, list[LayerState]]:
        """The memories [n_memories, llm_width] of one more utterance of a dialogue, and the states that the next goes
        on from.

        past: the states that the utterance before left; None begins a dialogue. The cost is that of the new
        utterance alone and the states' size is constant, however long the dialogue; the memories are those that
        `compress` gives for the whole of it.
        """
        found, states = self._read([[self.ids(utterance.text)]], [[utterance.role]], past)
        return found[0], states

    def _read(
        self,
        dialogues: Sequence[Sequence[Tensor]],
        roles: Sequence[Sequence[int | None]] | None,
        past: Sequence[LayerState] | None,
    ) -> tuple[list[Tensor], list[LayerState]]:
        """Memories by dialogue, and the states after the padded rows (of use where nothing was padded)."""
        limit = self.shape.max_utterance_tokens
        dialogues = [[ids[:limit] for ids in utterances] for utterances in dialogues]
        if not any(dialogues):
            return [self.mean.new_zeros(0, self.shape.llm_width) for _ in dialogues], []
        packed = pack(dialogues, self.shape.memory_span, self.mem.device)
        if self.shape.kind == "small":
            tokens = (self.table[packed.ids].float() - self.mean) / self.spread
            states, left = self.mamba.advance(packed.laid_out(self.inlet(tokens), self.mem), past)
            at_mem = states[packed.row, packed.place]
            memories = small_memories(at_mem, tokens, packed, self.pool, self.projector)
        else:
            inputs = self.mamba.embeddings(packed.ids)
            states, left = self.mamba.advance(packed.laid_out(inputs, self.mem), past)
            memories = checkpoint_memories(states[packed.row, packed.place], self.projector)
        if roles is not None:
            speakers = [role for dialogue in roles for role in dialogue]
            by_memory = [
                role for role, count in zip(speakers, packed.of_utterance, strict=True) for _ in range(count)
            ]
            memories = self._with_roles(memories, by_memory)
        return list((self.mean + self.spread * memories).split(packed.of_dialogue)), left

    def _with_roles(self, memories: Tensor, roles: Sequence[int | None]) -> Tensor:
        """memories [n, llm_width] and the vector of each one's role, where it has one."""
        with_role = [place for place, role in enumerate(roles) if role is not None]
        if not with_role:
            return memories
        last = self.shape.roles - 1
        numbers = torch.tensor([min(roles[place], last) for place in with_role], device=memories.device)
        places = torch.tensor(with_role, device=memories.device)
        return memories.index_add(0, places, F.embedding(numbers, self.roles))

    def compress(
        self,
        dialogues: Sequence[Sequence[Spoken]],
        learning: bool = False,
        dtype: torch.dtype = torch.float32,
        device: str | None = None,
    ) -> list[Tensor]:
        """Memories [n_memories, llm_width] of dialogues, a bounded number of tokens at once.

        learning: with their gradient, where one is wanted at all. dtype, device: what the memories become as soon as they
        are made, so that of many dialogues no more than a batch is in fp32 on a GPU; device None: where they are made.
        """
        with torch.set_grad_enabled(learning and torch.is_grad_enabled()):
            return self._compress(dialogues, dtype, device)

    def _compress(
        self, dialogues: Sequence[Sequence[Spoken]], dtype: torch.dtype, device: str | None
    ) -> list[Tensor]:
        rows = [[self.ids(utterance.text) for utterance in dialogue] for dialogue in dialogues]
        roles = [[utterance.role for utterance in dialogue] for dialogue in dialogues]
        sizes = [sum(map(len, row)) + sum(self.counts_of(row)) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: (sizes[i], i))
        found: dict[int, Tensor] = {}
        while order:
            # The longest row sets the padded length of its batch.
            take = max(1, min(len(order), BATCH_TOKENS // max(1, sizes[order[-1]])))
            batch, order = order[-take:], order[:-take]
            memories = self.memories([rows[i] for i in batch], [roles[i] for i in batch])
            kept = [made.to(device=device, dtype=dtype) for made in memories]
            del memories  # of the next batch's size, and not to stand beside it
            found.update(zip(batch, kept, strict=True))
        return [found[i] for i in range(len(rows))]

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Every weight becomes the nearest one that fp16 can hold, so that a folder half the size is exact."""
        for weight in self.parameters():
            weight.copy_(weight.half())

    def save(self, folder: Path, dtype: Literal["float32", "float16"] = "float32") -> None:
        """config.json, model.safetensors in `dtype` and, for a checkpoint, its tokenizer; files appear whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: value.detach().to(getattr(torch, dtype)).contiguous().cpu()
            for name, value in self.state_dict().items()
        }
        draft = folder / f"{WEIGHTS}.tmp"
        save_file(weights, draft)
        os.replace(draft, folder / WEIGHTS)
        if self.shape.kind == "checkpoint":
            self.tokenizer.save_pretrained(folder / TOKENIZER)
        # Left out where it is the paper's: the file of a compressor without spans is what it always was.
        write_json(self.shape.model_dump(exclude_none=True), folder / CONFIG)

    @classmethod
    def load(cls, folder: Path, llm_tokenizer, llm_table: Tensor) -> MambaCompressor:
        """The compressor of a folder, frozen and in eval mode, on the device of `llm_table`.

        CompressorError where files are missing or damaged, naming the weights that are absent, unknown or of
        another shape, or where the LLM is of another width than the one it was trained for.
        """
        folder = Path(folder)
        try:
            shape = CompressorShape.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS)
            tokenizer = llm_tokenizer
            if shape.kind == "checkpoint":
                tokenizer = from_folder(AutoTokenizer, folder / TOKENIZER)
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CompressorError(
                f"{folder}: no compressor can be read there ({reason}); train it again"
            ) from error
        if shape.llm_width != llm_table.shape[1]:
            raise CompressorError(
                f"{folder}: made for an LLM of width {shape.llm_width}, this one has {llm_table.shape[1]}; train it again"
            )
        compressor = cls(shape, tokenizer, llm_table)
        differing = differing_weights(compressor, weights)
        if differing:
            raise CompressorError(f"{folder}: {WEIGHTS} does not fit {CONFIG}: {differing}; train it again")
        compressor.load_state_dict(weights, strict=True)
        return compressor.to(llm_table.device).requires_grad_(False).eval()


def new_compressor(
    settings: CompressorSettings, llm_tokenizer, llm_table: Tensor, weights: Path | None
) -> MambaCompressor:
    """An untrained compressor; `weights` is the folder of a Mamba checkpoint, None for the small one.

    The checkpoint keeps its own tokenizer and embeddings, whose rows mean nothing under another; <MEM> is one
    added vector. Its projector starts random, the checkpoint as it is. Seeded by settings.pretrain.seed; made on
    the CPU, so that a seed draws the same everywhere, and then moved to the device of `llm_table`.
    """
    width, bare = llm_table.shape[1], None if settings.prompt == "paper" else settings.prompt
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.pretrain.seed)
        if weights is None:
            shape = CompressorShape(
                kind="small",
                llm_width=width,
                max_utterance_tokens=settings.max_utterance_tokens,
                memory_span=settings.memory_span,
                prompt=bare,
                **settings.model_dump(include={"hidden", "layers", "state", "conv", "expand", "roles"}),
            )
            return MambaCompressor(shape, llm_tokenizer, llm_table, settings.pool_decay).to(llm_table.device)
        mamba, config = load_checkpoint(weights)
        shape = CompressorShape(
            kind="checkpoint",
            llm_width=width,
            hidden=config["hidden_size"],
            max_utterance_tokens=settings.max_utterance_tokens,
            roles=settings.roles,
            memory_span=settings.memory_span,
            prompt=bare,
            checkpoint=config,
        )
        tokenizer = from_folder(AutoTokenizer, weights)
        compressor = MambaCompressor(shape, tokenizer, llm_table)
        compressor.mamba.load_state_dict(mamba, strict=True)
        with torch.no_grad():
            compressor.mem.copy_(mamba["embeddings.weight"].mean(0))
        return compressor.to(llm_table.device)
