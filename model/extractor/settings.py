"""Settings of the audio-visual emotion extractor. Imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, Field, model_validator

from model.settings import TrainingSettings


class RecognitionSettings(BaseModel, frozen=True, extra="forbid"):
    """Emotion recognition by the finished extractor on test (figure 6)."""

    clips: int | None = Field(
        None, ge=1, description="Test clips, spread over the datasets; None takes all, as the paper does."
    )
    batch_size: int = Field(16, ge=1, description="Prompts at a time; changes no figure beyond rounding.")
    seed: int = Field(0, description="Chooses the clips. Not in the paper.")


class ExtractorSettings(BaseModel, frozen=True, extra="forbid"):
    """Two Q-Formers and their training on emotion recognition (paper, sections 3.1 and 4.2)."""

    layers: int = Field(6, ge=1, description="Transformer layers of a Q-Former.")
    heads: int = Field(8, ge=1, description="Attention heads of a Q-Former.")
    queries: int = Field(32, ge=1, description="Learnable queries: embeddings a modality gives the LLM.")
    hidden: int = Field(512, ge=8, description="Width of a Q-Former. Not in the paper.")
    text_share: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="Share of training rows that show the sentence: alone, with audio, with video or with both (the "
        "text settings of figure 6), each as often as the others. Not in the paper.",
    )
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _heads_divide(self) -> ExtractorSettings:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}; choose one that is")
        return self
