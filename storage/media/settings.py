"""Settings of decoding. Knows nothing of what becomes of the sound and the frames."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class MediaSettings(BaseModel, frozen=True, extra="forbid"):
    """Who decodes, and which clips are rejected. None of it is in the paper."""

    decoder: Literal["pyav", "decord"] = Field(
        "pyav",
        description="pyav is exact on every file; decord takes well-formed H.264 mp4 and leaves the rest to pyav. "
        "Not in the paper.",
    )
    mis_cut_seconds: float | None = Field(
        1.0,
        gt=0,
        description="A clip whose length differs by more from the length its release states is mis-cut; None keeps "
        "it. Not in the paper.",
    )
    timeout_s: float = Field(
        120.0, gt=0, description="A file that takes longer to decode is given up. Not in the paper."
    )
