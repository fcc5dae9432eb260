"""Settings of a multimodal LLM's finetuning. Imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, Field

from model.settings import TrainingSettings


class MultimodalTraining(BaseModel, frozen=True, extra="forbid"):
    """A LoRA on the exchanges that the rungs are trained on (table 1's †). Nothing of it is in the paper."""

    rank: int = Field(128, ge=1, description="LoRA rank, as the dialogue model's.")
    alpha: int = Field(256, ge=1, description="LoRA alpha, as the dialogue model's.")
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"), description="What LoRA adapts, in the language model alone."
    )
    training: TrainingSettings = Field(
        TrainingSettings(learning_rate=1e-4, batch_size=8),
        description="`max_tokens` counts prompts, with the tokens that stand for a clip, and replies.",
    )
