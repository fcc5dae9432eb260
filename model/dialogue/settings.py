"""Settings of the dialogue model: its LoRA adapter, its training, and the limits of history and reply.

Knows nothing of the code that reads them; imports no torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from model.settings import TrainingSettings


class DialogueSettings(BaseModel, frozen=True, extra="forbid"):
    """Dialogue finetuning with joint memory reconstruction (paper, section 4.2)."""

    rank: int = Field(128, ge=1, description="LoRA rank.")
    alpha: int = Field(256, ge=1, description="LoRA alpha.")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"), description="What LoRA adapts. Not in the paper."
    )
    start_from_reader: bool = Field(
        False,
        description="Where the history is memories, the adapter goes on from the reader that the compressor was trained "
        "with, of the same rank, alpha and targets, instead of starting anew. Not in the paper.",
    )
    reconstruction_weight: float = Field(
        1.0, ge=0, description="Weight of memory reconstruction beside the reply. Not in the paper."
    )
    max_reconstruction_tokens: int = Field(
        128,
        ge=1,
        description="The last utterances of a history that fit are reconstructed. Not in the paper.",
    )
    memory: Literal["mamba", "mean"] = Field(
        "mamba",
        description="What stands for an utterance where the history is memories: the MambaCompressor's memory, or the "
        "mean of its token embeddings, which needs no compressor and is not in the paper.",
    )
    recent_utterances: int = Field(
        0,
        ge=0,
        description="Where the history is memories, its last utterances that stand as text; 0, the paper's: none.",
    )
    history_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the train exchanges whose history is withheld in every epoch, so that the adapter "
        "knows prompts without one. Not in the paper.",
    )
    train_compressor: bool = Field(
        False,
        description="The compressor learns from the replies' loss beside the adapter, and is saved with it. The paper's "
        "stays frozen.",
    )
    max_history_utterances: int = Field(
        32, ge=0, description="Older utterances leave the history. Not in the paper."
    )
    max_history_tokens: int = Field(
        1024, ge=1, description="Of a history as text; older utterances leave it. Not in the paper."
    )
    max_new_tokens: int = Field(64, ge=1, description="Limit of a reply. Not in the paper.")
    reply_batch_size: int = Field(16, ge=1, description="Replies generated at once. Not in the paper.")
    training: TrainingSettings = Field(
        TrainingSettings(learning_rate=1e-4, batch_size=8),
        description="`max_tokens` counts all the LLM reads: prompts, replies, reconstructions.",
    )
