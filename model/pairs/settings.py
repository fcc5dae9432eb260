"""Settings of choosing counter-emotional replies. Knows nothing of models; imports no torch."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, Field, field_validator

Control = Literal["random", "most_similar", "shuffled", "nll"]
CONTROLS: tuple[Control, ...] = get_args(Control)
"""Further trainings on the same rows that EPO is compared with, in the order in which reports list them."""


def stage_name(stage: str, control: str) -> str:
    """What a control's own part of a stage is called: "pairs.most-similar"."""
    return f"{stage}.{control.replace('_', '-')}"


class QualitySettings(BaseModel, frozen=True, extra="forbid"):
    """What pairs must be before EPO may train on them. None of this is in the paper."""

    bound: float = Field(
        0.75,
        ge=0.5,
        le=1,
        description="Not in the paper. Share of held-out pairs that length alone, or style alone, may rank right "
        "before the report warns.",
    )
    error: bool = Field(False, description="Not in the paper. Above the bound the run stops before EPO.")
    folds: int = Field(5, ge=2, description="Not in the paper. Parts of the cross-validation.")


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
    selection: Literal["least_similar", "length_matched"] = Field(
        "least_similar",
        description="Not in the paper, which takes the least similar. length_matched: of those below the threshold "
        "the one nearest to the true reply in words, and as many longer as shorter ones in all.",
    )
    chosen: Literal["human", "most_similar"] = Field(
        "human",
        description="What is preferred: the true reply, as in the paper, or (not in the paper) the usable candidate "
        "whose emotion is most like its own. The autoregressive loss is of the true reply either way.",
    )
    control: tuple[Control, ...] = Field(
        (),
        description="Not in the paper. Further trainings on the same exchanges, in the same batches and for as many "
        "steps, each with its own rung in the report. random: the rejected reply is drawn from the other usable "
        "candidates. most_similar: it is the most similar of them. shuffled: the true reply of another exchange "
        "chooses the pair, which teaches the emotion that is usual and not this exchange's. nll: no preference, the "
        "autoregressive loss alone.",
    )
    quality: QualitySettings = QualitySettings()

    @field_validator("control", mode="before")
    @classmethod
    def _by_name(cls, control: object) -> object:
        if isinstance(control, bool):
            new = '["random"]' if control else "[]"
            raise ValueError(f"controls are named now: pairs.control={new}, of {', '.join(CONTROLS)}")
        return (control,) if isinstance(control, str) else control

    @field_validator("control")
    @classmethod
    def _each_once(cls, control: tuple[Control, ...]) -> tuple[Control, ...]:
        if len(set(control)) < len(control):
            raise ValueError("a control is named twice; name each once")
        return control
