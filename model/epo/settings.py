"""Settings of emotion preference optimization. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from model.settings import TrainingSettings


class EpoSettings(BaseModel, frozen=True, extra="forbid"):
    """Paper, equations 1 and 2 and section 4.2. The adapter of the dialogue stage is trained on."""

    beta: float = Field(2.0, gt=0, description="Scale of the reward, the mean log-likelihood of a reply.")
    gamma: float = Field(
        0.5, ge=0, description="Reward margin, in units of the reward (SimPO's ratio gamma/beta is 0.25)."
    )
    autoregressive_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of the standard autoregressive loss on the true reply. Not in the paper.",
    )
    preference_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of equation 2 beside it; 0 leaves the autoregressive loss alone. Not in the paper.",
    )
    collapse_steps: int = Field(
        50,
        ge=8,
        description="Training steps over which the rewards of both replies must fall, each clearly beyond the noise of "
        "its batches, to count as collapse; all steps of a shorter run. Not in the paper.",
    )
    until: Literal["budget", "moved"] = Field(
        "budget",
        description="When training ends, beside collapse and stuck replies. budget: with its rows and tokens, as in "
        "the paper. moved: at the first check at which held-out pairs are ranked better than before the first step, "
        "by an interval over dialogues; its weights are kept. Not in the paper.",
    )
    sampled_replies: int = Field(
        32,
        ge=0,
        description="Held-out prompts answered greedily at every check, to see empty and looping replies. Not in the "
        "paper.",
    )
    max_stuck_share: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Share of these that may be empty or looped: above it, and above what it was before the first "
        "step, training ends, and the check is not kept; one reply alone ends nothing. Not in the paper.",
    )
    sampled_tokens: int = Field(24, ge=1, description="Limit of such a reply. Not in the paper.")
    training: TrainingSettings = Field(
        TrainingSettings(learning_rate=1e-6),
        description="`max_tokens` counts prompts and true replies: what trainings on other pairs share.",
    )
