"""Settings of choosing counter-emotional replies. Knows nothing of models; imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class PairSettings(BaseModel, frozen=True, extra="forbid"):
    """The rule of section 8: the least similar candidate, kept when its cosine is below the threshold."""

    threshold: float = Field(0.1, gt=-1, le=1, description="Kept strictly below this cosine (section 8).")
    fallback: Literal["none", "equal_error"] = Field(
        "none",
        description="Not in the paper. Where the threshold keeps too few of train: keep none more, or use the "
        "cosine at which same- and different-emotion human replies are confused equally often.",
    )
    least_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Not in the paper. Share of train exchanges below which the fallback acts.",
    )
    calibration_pairs: int = Field(
        600, ge=10, description="Not in the paper. Human pairs of each kind behind the equal-error cosine."
    )
    seed: int = Field(0, description="Draws the human pairs. Not in the paper.")
