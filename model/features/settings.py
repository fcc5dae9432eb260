"""Settings of feature extraction. Knows nothing of clips or of who reads the features; imports no torch."""

from __future__ import annotations

from math import isqrt
from typing import Literal

from pydantic import BaseModel, Field, field_validator


class FeatureSettings(BaseModel, frozen=True, extra="forbid"):
    """What becomes of an utterance's sound and picture (paper, sections 3.1 and 4.2)."""

    audio_weights: str = Field("whisper-tiny", description="Weight name or folder of the audio encoder.")
    video_weights: str = Field("clip-vit-b-32", description="Weight name or folder of the video encoder.")
    frames: int = Field(8, ge=1, description="Randomly sampled frames of an utterance.")
    video_tokens_per_frame: int | None = Field(
        None,
        ge=1,
        description="Patch tokens of a frame are averaged over a square map to this many, a square number; "
        "None keeps all (49), as the paper does. CLIP's class token stays beside them.",
    )
    max_seconds: float = Field(
        30.0, gt=0, le=30, description="Longest utterance; Whisper's window. Not in the paper."
    )
    audio_window_s: float = Field(
        30.0,
        gt=0,
        le=30,
        description="Whisper reads an utterance and silence, up to a whole number of windows of so many seconds; 30 are what "
        "it was trained on and, it is assumed, the paper's. Of one of 3 s it reads a sixth with 5, and its states are the "
        "same to a cosine of 0.96 to 0.99.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="What the encoders compute in. Not in the paper."
    )
    batch_size: int = Field(
        1,
        ge=1,
        description="Clips encoded at once: on a GPU many are quicker, and move a clip's last bits alone. Not in the paper.",
    )
    seed: int = Field(0, description="Draws the frames. Not in the paper.")

    @field_validator("video_tokens_per_frame")
    @classmethod
    def _is_square(cls, tokens: int | None) -> int | None:
        if tokens is not None and isqrt(tokens) ** 2 != tokens:
            raise ValueError(f"video_tokens_per_frame is {tokens}; give a square number, such as 9")
        return tokens
