"""Settings every training stage shares. Knows nothing of any particular stage; imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class TrainingSettings(BaseModel, frozen=True, extra="forbid"):
    """One training run. The paper gives learning rates for EPO only; the rest is marked."""

    learning_rate: float = Field(1e-4, gt=0, description="Peak rate. Not in the paper except for EPO (1e-6).")
    batch_size: int = Field(8, ge=1, description="Rows a step, in all processes. Not in the paper.")
    accumulation: int = Field(
        1,
        ge=1,
        description="Parts in which a step's rows are run, one after the other: less memory, the same step. "
        "Not in the paper.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Decoder layers keep their inputs alone and are computed again in the backward pass: a fifth of the memory "
        "or less, a third more products, the same step. Not in the paper.",
    )
    epochs: int = Field(1, ge=1, description="Passes over the data. Not in the paper.")
    max_tokens: int | None = Field(
        None, ge=1, description="Budget of training tokens; None lifts it. Not in the paper."
    )
    warmup_share: float = Field(0.1, ge=0, lt=1, description="Share of steps that warm up. Not in the paper.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's. Not in the paper.")
    adam_beta2: float = Field(0.999, gt=0, lt=1, description="AdamW's second decay rate. Not in the paper.")
    gradient_clip: float = Field(1.0, gt=0, description="Largest gradient norm. Not in the paper.")
    evaluations: int = Field(3, ge=1, description="Held-out evaluations after the start. Not in the paper.")
    patience: int | None = Field(
        None,
        ge=1,
        description="Training has converged, and ends, when the held-out loss was no lower than its lowest at this "
        "many evaluations in a row; the rate still falls by the whole budget, which ends it otherwise. None spends "
        "the budget. Not in the paper.",
    )
    heldout_rows: int | None = Field(None, ge=1, description="Held-out rows looked at; None takes all.")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="Compute type. Not in the paper.")
    threads: int | None = Field(None, ge=1, description="CPU threads; None leaves torch's default.")
    seed: int = 0
