"""Settings of the compressor: its size or its checkpoint, its limits, and its two training runs.

Knows nothing of the code that reads them; imports no torch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from model.settings import TrainingSettings


class SpanStage(BaseModel, frozen=True, extra="forbid"):
    """A stage of pretraining before the last one."""

    span: int = Field(ge=1, description="As memory_span.")
    max_tokens: int = Field(ge=1, description="Its budget of reconstructed tokens.")


class WindowStage(BaseModel, frozen=True, extra="forbid"):
    """A stage of finetuning before the last one."""

    utterances: int = Field(ge=1, description="As max_dialogue_utterances.")
    max_tokens: int = Field(ge=1, description="Its budget of reconstructed tokens.")


class CompressorSettings(BaseModel, frozen=True, extra="forbid"):
    """MambaCompressor (section 3.2): pretrained on single utterances, then finetuned on dialogues.

    With `weights` the sizes below are the checkpoint's own; without, a small Mamba is trained from scratch on
    the LLM's frozen token embeddings.
    """

    weights: str = Field(
        "mamba-370m",
        description="Mamba checkpoint (a weight name or folder); '' trains a small one from scratch.",
    )
    pretrained: str = Field(
        "",
        description="A pretrained compressor (a weight name or folder), taken as it is and only finetuned; '' "
        "pretrains one. Not in the paper.",
    )
    layers: int = Field(2, ge=1, description="Layers of the small Mamba. Not in the paper.")
    hidden: int = Field(256, ge=1, description="Width of the small Mamba. Not in the paper.")
    state: int = Field(16, ge=1, description="State size of the small Mamba. Not in the paper.")
    conv: int = Field(4, ge=1, description="Convolution width of the small Mamba. Not in the paper.")
    expand: int = Field(2, ge=1, description="Inner width over width of the small Mamba. Not in the paper.")
    roles: int = Field(
        8,
        ge=1,
        description="Speakers of a dialogue that are kept apart, by order of appearance; all further ones are told as "
        "the last. Not in the paper.",
    )
    pool_decay: float = Field(
        0.7,
        ge=0,
        description="How fast the weights of an utterance's tokens fall at first in the small one's pool, from each to "
        "the next by exp(-decay). Not in the paper.",
    )
    memory_span: int | None = Field(
        None,
        ge=1,
        description="A memory after every so many tokens of an utterance, and at its end; None: one an utterance, the "
        "paper's. One taken by `pretrained` keeps its own; another number here is refused.",
    )
    span_curriculum: tuple[SpanStage, ...] = Field(
        (),
        description="Stages of pretraining with shorter spans before the one of `memory_span`, which has "
        "pretrain.max_tokens; each starts its schedule anew. Not in the paper.",
    )
    reader_rank: int = Field(
        0,
        ge=0,
        description="Rank of a LoRA adapter of the LLM that learns with the compressor to read memories back; 0: the "
        "LLM is frozen, the paper's. One that a pretrained compressor has reads along either way.",
    )
    reader_alpha: int = Field(64, ge=1, description="The adapter's alpha. Not in the paper.")
    reader_target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"), description="What it adapts. Not in the paper."
    )
    reader_learning_rate: float = Field(1e-3, gt=0, description="Its peak rate. Not in the paper.")
    prompt: Literal["paper", "bare"] = Field(
        "paper",
        description="What stands around the memories that are read back: table 5, or nothing but a new line after them, "
        "which is enough for a reader that learns. One taken by `pretrained` keeps its own; bare is refused where that is "
        "table 5.",
    )
    half_products: bool = Field(
        False,
        description="In training, products of frozen weights in bf16 and all else in the training's dtype, float32: up "
        "to twice as fast on a CPU that has avx512_bf16. Not in the paper.",
    )
    max_utterance_tokens: int = Field(
        128, ge=1, description="Longer utterances are not trained on, and are cut in use. Not in the paper."
    )
    max_pretrain_tokens: int | None = Field(
        None,
        ge=1,
        description="Longer utterances are not pretrained on: short ones give more steps for their tokens. "
        "Not in the paper.",
    )
    max_dialogue_utterances: int = Field(
        32,
        ge=1,
        description="Longer dialogues are finetuned on in windows of this size; as many as a history may have in use "
        "(dialogue.max_history_utterances). Not in the paper.",
    )
    window_curriculum: tuple[WindowStage, ...] = Field(
        (),
        description="Stages of finetuning on shorter windows of dialogues before the one of `max_dialogue_utterances`, "
        "which has finetune.max_tokens; each starts its schedule anew. Not in the paper.",
    )
    max_dialogue_tokens: int = Field(
        1024, ge=1, description="Tokens to reconstruct in one window of a dialogue. Not in the paper."
    )
    free_running_rows: int = Field(
        16, ge=0, description="Held-out rows also reconstructed greedily. Not in the paper."
    )
    free_running_tokens: int = Field(
        128, ge=1, description="Longer held-out rows are not reconstructed greedily. Not in the paper."
    )
    saved_as: Literal["float32", "float16"] = Field(
        "float32", description="Type of the saved weights, which are rounded to it. Not in the paper."
    )
    pretrain: TrainingSettings = Field(
        TrainingSettings(learning_rate=1e-4, batch_size=32, epochs=10, evaluations=40, patience=4),
        description="Single utterances, to convergence: until `patience` evaluations, here an epoch's, have brought no "
        "lower held-out loss. The criterion is not in the paper.",
    )
    finetune: TrainingSettings = Field(
        TrainingSettings(learning_rate=5e-5, batch_size=4),
        description="Dialogues; starts from the pretrained.",
    )

    @model_validator(mode="after")
    def _widens(self) -> CompressorSettings:
        spans = [stage.span for stage in self.span_curriculum]
        spans += [] if self.memory_span is None else [self.memory_span]
        if _shrinks(spans):
            raise ValueError(f"span_curriculum: spans must grow up to memory_span, these are {spans}")
        windows = [*(stage.utterances for stage in self.window_curriculum), self.max_dialogue_utterances]
        if _shrinks(windows):
            raise ValueError(
                f"window_curriculum: utterances must grow up to max_dialogue_utterances, these are {windows}"
            )
        return self


def _shrinks(sizes: list[int]) -> bool:
    """Whether a size is not above the one before it."""
    return any(after <= before for before, after in pairwise(sizes))
