"""MambaCompressor (paper, section 3.2 and figure 3): a dialogue becomes one memory embedding per utterance.

A dialogue is one sequence u1 <MEM> u2 <MEM> ..., so a memory knows what came before and nothing that comes
after. What is read is the bare utterance; who said it is told by a vector per role, added to the memory where the LLM
reads it: so the LLM sees it whatever the Mamba does, the text's own memory is what it was in pretraining, and turn by
turn costs nothing more. Knows nothing of prompts, of how the LLM uses memories, or of how the compressor is trained.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoTokenizer, MambaModel

from model.compressor.mamba import LayerState, Mamba, MambaShape
from model.compressor.settings import CompressorSettings
from model.json_files import write_json
from model.llm import token_ids
from model.pretrained import from_folder
from model.spoken import Spoken
from model.weights import differing_weights, named

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZER = "tokenizer"
BATCH_TOKENS = 4096
"""Most tokens, padding included, that `compress` runs at once."""
POOL_GAIN = 10.0
"""AdamW moves every number by about the learning rate a step; the pool's logits have further to go."""


class CompressorError(ValueError):
    """A compressor folder that cannot be loaded, or an utterance it cannot read."""


class CompressorShape(BaseModel, frozen=True, extra="forbid"):
    """All that is needed to build a compressor."""

    kind: Literal["small", "checkpoint"]
    llm_width: int
    hidden: int
    max_utterance_tokens: int
    roles: int
    layers: int = 0
    state: int = 0
    conv: int = 0
    expand: int = 0
    checkpoint: dict = Field({}, description="Of a checkpoint: vocab_size and what MambaShape holds.")

    @property
    def mamba(self) -> MambaShape:
        """Sizes of the Mamba itself."""
        if self.kind == "checkpoint":
            sizes = {name: value for name, value in self.checkpoint.items() if name != "vocab_size"}
            return MambaShape(**sizes)
        return MambaShape(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            state_size=self.state,
            conv_kernel=self.conv,
            expand=self.expand,
        )


class TokenPool(nn.Module):
    """The memory a small compressor starts from: a weighted mean of the utterance's own token embeddings.

    Each dimension weighs positions by itself; weights start as a geometric series, the first token heaviest,
    for it is the one the LLM cannot guess from those before it. A Mamba from scratch learns the rest. Not in
    the paper, and not used with a pretrained checkpoint.
    """

    def __init__(self, positions: int, width: int, decay: float = 0.7):
        super().__init__()
        start = -decay * torch.arange(positions, dtype=torch.float32)
        self.logits = nn.Parameter(start.clamp_min(-16)[:, None].repeat(1, width) / POOL_GAIN)

    def forward(self, embeddings: Tensor, position: Tensor, owner: Tensor, utterances: int) -> Tensor:
        """embeddings [N, d] of tokens at `position` [N] of utterance `owner` [N] -> [utterances, d]."""
        weight = torch.exp(POOL_GAIN * self.logits[position])
        zeros = torch.zeros(utterances, embeddings.shape[1], dtype=weight.dtype, device=weight.device)
        total = zeros.index_add(0, owner, weight * embeddings)
        # The plain sum of squares keeps the variance of a weighted mean of unit-variance tokens at one.
        return total / zeros.index_add(0, owner, weight.square()).sqrt()


class MambaCompressor(nn.Module):
    """Token ids of the utterances of dialogues -> memories of the LLM's width, in fp32.

    A memory has the mean and the spread, dimension by dimension, of the LLM's token embeddings from the first
    step on: the frozen LLM knows no other place. The LLM's embedding table is used, never trained, never
    saved. `roles` [roles, llm_width], in spreads, starts at zero and changes no memory until it is trained; speakers
    beyond the table share its last row.
    """

    def __init__(self, shape: CompressorShape, tokenizer, llm_table: Tensor):
        """llm_table: the LLM's input embeddings [vocabulary, llm_width]; tokenizer: what makes the ids."""
        super().__init__()
        self.shape, self.tokenizer = shape, tokenizer
        table = llm_table.detach()
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("mean", table.float().mean(0), persistent=False)
        self.register_buffer("spread", table.float().std(0), persistent=False)
        self.mem = nn.Parameter(torch.randn(shape.hidden) * 0.02)
        self.roles = nn.Parameter(torch.zeros(shape.roles, shape.llm_width))
        if shape.kind == "small":
            self.inlet = nn.Linear(shape.llm_width, shape.hidden, bias=False)
            nn.init.orthogonal_(self.inlet.weight)
            self.mamba = Mamba(shape.mamba)
            self.pool = TokenPool(shape.max_utterance_tokens, shape.llm_width)
        else:
            self.mamba = Mamba(shape.mamba, shape.checkpoint["vocab_size"])
        self.projector = nn.Sequential(
            nn.Linear(shape.hidden, shape.llm_width), nn.GELU(), nn.Linear(shape.llm_width, shape.llm_width)
        )
        if shape.kind == "small":
            nn.init.zeros_(self.projector[2].weight)
            nn.init.zeros_(self.projector[2].bias)

    def ids(self, utterance: str) -> Tensor:
        """Token ids [n] of an utterance, not cut."""
        ids = token_ids(self.tokenizer, utterance)
        if not len(ids):
            raise CompressorError("an utterance without tokens has no memory; leave it out of the history")
        return ids

    def memories(
        self,
        dialogues: Sequence[Sequence[Tensor]],
        roles: Sequence[Sequence[int | None]] | None = None,
    ) -> list[Tensor]:
        """Per dialogue its memories [n_utterances, llm_width], from the token ids [n] of its utterances.

        roles: of each utterance the place of its speaker, or None; without, nobody is told. An utterance beyond
        `max_utterance_tokens` is cut there. Rows are right-padded: nothing that stands before the padding can see it.
        """
        return self._read(dialogues, roles, None)[0]

    @torch.no_grad()
    def step(
        self, utterance: Spoken, past: Sequence[LayerState] | None = None
    ) -> tuple[Tensor, list[LayerState]]:
        """The memory [llm_width] of one more utterance of a dialogue, and the states that the next goes on from.

        past: the states that the utterance before left; None begins a dialogue. The cost is that of the new
        utterance alone and the states' size is constant, however long the dialogue; the memory is the one that
        `compress` gives for the whole of it.
        """
        found, states = self._read([[self.ids(utterance.text)]], [[utterance.role]], past)
        return found[0][0], states

    def _read(
        self,
        dialogues: Sequence[Sequence[Tensor]],
        roles: Sequence[Sequence[int | None]] | None,
        past: Sequence[LayerState] | None,
    ) -> tuple[list[Tensor], list[LayerState]]:
        """Memories by dialogue, and the states after the padded rows (of use where nothing was padded)."""
        limit = self.shape.max_utterance_tokens
        dialogues = [[ids[:limit] for ids in utterances] for utterances in dialogues]
        counts = [len(utterances) for utterances in dialogues]
        utterances = [ids for dialogue in dialogues for ids in dialogue]
        if not utterances:
            return [self.mean.new_zeros(0, self.shape.llm_width) for _ in dialogues], []
        device = self.mem.device
        flat = torch.cat(utterances).to(device)
        lengths = torch.tensor([len(ids) for ids in utterances])
        if self.shape.kind == "small":
            tokens = (self.table[flat].float() - self.mean) / self.spread
            inputs = self.inlet(tokens)
        else:
            tokens, inputs = None, self.mamba.embeddings(flat)
        rows, places, first = [], [], 0
        parts = inputs.split(lengths.tolist())
        for row, count in enumerate(counts):
            pieces = [piece for part in parts[first : first + count] for piece in (part, self.mem[None])]
            rows.append(torch.cat(pieces) if pieces else inputs.new_zeros(1, self.shape.hidden))
            places += [(row, int(end)) for end in (lengths[first : first + count] + 1).cumsum(0) - 1]
            first += count
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        row, place = torch.tensor(places, device=device).unbind(1)
        states, left = self.mamba.advance(padded, past)
        memories = self.projector(states[row, place])
        if tokens is not None:
            owner = torch.repeat_interleave(torch.arange(len(utterances)), lengths).to(device)
            position = torch.cat([torch.arange(int(n)) for n in lengths]).to(device)
            memories = memories + self.pool(tokens, position, owner, len(utterances))
        else:
            memories = F.layer_norm(memories, memories.shape[-1:])
        if roles is not None:
            memories = self._with_roles(memories, [role for dialogue in roles for role in dialogue])
        return list((self.mean + self.spread * memories).split(counts)), left

    def _with_roles(self, memories: Tensor, roles: Sequence[int | None]) -> Tensor:
        """memories [n, llm_width] and the vector of each one's role, where it has one."""
        told = [place for place, role in enumerate(roles) if role is not None]
        if not told:
            return memories
        last = self.shape.roles - 1
        numbers = torch.tensor([min(roles[place], last) for place in told], device=memories.device)
        places = torch.tensor(told, device=memories.device)
        return memories.index_add(0, places, F.embedding(numbers, self.roles))

    def counts(self, dialogue: Sequence[Spoken]) -> list[int]:
        """How many memories each utterance has."""
        return [1] * len(dialogue)

    def reads_whole(self, text: str) -> bool:
        """Whether an utterance is read to its end."""
        return len(self.ids(text)) <= self.shape.max_utterance_tokens

    def compress(self, dialogues: Sequence[Sequence[Spoken]]) -> list[Tensor]:
        """Memories [n_utterances, llm_width] of dialogues, a bounded number of tokens at once.

        With their gradient where the weights learn: measure under `torch.no_grad`.
        """
        rows = [[self.ids(utterance.text) for utterance in dialogue] for dialogue in dialogues]
        roles = [[utterance.role for utterance in dialogue] for dialogue in dialogues]
        sizes = [sum(len(ids) + 1 for ids in row) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: (sizes[i], i))
        found: dict[int, Tensor] = {}
        while order:
            # The longest row sets the padded length of its batch.
            take = max(1, min(len(order), BATCH_TOKENS // max(1, sizes[order[-1]])))
            batch, order = order[-take:], order[:-take]
            memories = self.memories([rows[i] for i in batch], [roles[i] for i in batch])
            found.update(zip(batch, memories, strict=True))
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
        write_json(self.shape.model_dump(), folder / CONFIG)

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
    width = llm_table.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.pretrain.seed)
        if weights is None:
            shape = CompressorShape(
                kind="small",
                llm_width=width,
                max_utterance_tokens=settings.max_utterance_tokens,
                **settings.model_dump(include={"hidden", "layers", "state", "conv", "expand", "roles"}),
            )
            return MambaCompressor(shape, llm_tokenizer, llm_table).to(llm_table.device)
        mamba, config = load_checkpoint(weights)
        shape = CompressorShape(
            kind="checkpoint",
            llm_width=width,
            hidden=config["hidden_size"],
            max_utterance_tokens=settings.max_utterance_tokens,
            roles=settings.roles,
            checkpoint=config,
        )
        tokenizer = from_folder(AutoTokenizer, weights)
        compressor = MambaCompressor(shape, tokenizer, llm_table)
        compressor.mamba.load_state_dict(mamba, strict=True)
        with torch.no_grad():
            compressor.mem.copy_(mamba["embeddings.weight"].mean(0))
        return compressor.to(llm_table.device)


OLDER_NAMES = {r"^(backbone\.)?embedding\.": "embeddings."}
"""Of a checkpoint's tensors: mamba-ssm and some conversions name the embeddings in the singular."""


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """Weights in fp32 of any Mamba (version 1) checkpoint of transformers, and the sizes that rebuild it.

    CompressorError for another architecture, and where weights are absent, unknown or of another shape: the
    library would fill them in at random. A vocabulary head is not needed and left out.
    """
    config = from_folder(AutoConfig, folder)
    if config.model_type != "mamba" or config.hidden_act != "silu":
        raise CompressorError(
            f"{folder}: a {config.model_type} model with {getattr(config, 'hidden_act', 'no')} activation; "
            f"wanted mamba with silu"
        )
    model, told = from_folder(
        MambaModel, folder, dtype=torch.float32, output_loading_info=True, key_mapping=OLDER_NAMES
    )
    wrong = {
        "missing": sorted(told["missing_keys"]),
        "unknown": sorted(key for key in told["unexpected_keys"] if not key.startswith("lm_head.")),
        "of another shape": sorted(str(key[0]) for key in told["mismatched_keys"]),
    }
    if any(wrong.values()):
        raise CompressorError(f"{folder}: {named(wrong)}; the checkpoint is partial or of another model")
    names = (*MambaShape.model_fields, "vocab_size")
    return model.state_dict(), {name: getattr(config, name) for name in names}
