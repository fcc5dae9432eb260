"""Settings of the emotion scorer: how it is run, and how its trained part is built and trained.

Knows nothing of weights on disk or of training data, and imports no torch.
"""

from typing import Literal

from pydantic import BaseModel, Field


class ScorerSettings(BaseModel, frozen=True, extra="forbid"):
    """How texts are scored. The paper's scorer is SamLowe/roberta-base-go_emotions."""

    weights: str = Field(default="roberta-base-go_emotions", description="weight name or folder")
    batch_size: int = Field(default=64, ge=1, description="texts a batch; not in the paper")
    max_tokens: int = Field(default=128, ge=2, description="longer texts are cut here; not in the paper")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="what the scorer computes in; not in the paper"
    )


class EmotionNetworkSettings(BaseModel, frozen=True, extra="forbid"):
    """Shape of the trained part on top of an encoder, or of the lower layers of a decoder. Not in the paper."""

    base: str = Field(default="minilm-l6", description="weight name of the encoder")
    layers: tuple[int, ...] = Field(
        default=(2, 3, 4, 5, 6), min_length=1, description="layers whose pooled states are concatenated"
    )
    pooling: Literal["mean", "first", "after_first"] = Field(
        default="mean",
        description="a layer's vector: the mean of its token states, the first of them, or the mean without the first, "
        "on which a decoder rests attention and which drowns the others",
    )
    hidden: int = Field(default=256, ge=28, description="width of the hidden layer, at least one a label")
    rank: int = Field(
        default=0, ge=0, description="rank of the encoder's low-rank adapter; 0: it stays frozen"
    )


class AdapterTrainingSettings(BaseModel, frozen=True, extra="forbid"):
    """How the adapter is trained, with the head, after the head. Nothing here is in the paper."""

    epochs: int = Field(default=3, ge=1, description="passes over the training rows")
    batch_size: int = Field(default=64, ge=1, description="rows a step")
    learning_rate: float = Field(default=5e-4, gt=0, description="highest rate of the one-cycle schedule")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="before each low-rank product")


class HeadTrainingSettings(BaseModel, frozen=True, extra="forbid"):
    """How the trained part is trained on GoEmotions. Nothing here is in the paper."""

    network: EmotionNetworkSettings = EmotionNetworkSettings()
    part: Literal["all", "even", "odd"] = Field(
        default="all", description="rows of the train file used, by position: lets two scorers share none"
    )
    start: str = Field(
        default="", description="scorer whose head training starts from; empty: a head is trained first"
    )
    tuning_rows: int | None = Field(
        default=None,
        ge=1,
        description="training rows behind thresholds and centre, the first ones; None: all",
    )
    seed: int = Field(default=0, ge=0, description="seed of initial values, order and dropout")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="precision of the encoder's products in training; thresholds and centre are taken in float32",
    )
    max_tokens: int = Field(default=64, ge=2, description="longer texts are cut here in training")
    epochs: int = Field(default=25, ge=1, description="passes over the training rows")
    batch_size: int = Field(default=256, ge=1, description="rows a step")
    learning_rate: float = Field(default=1e-3, gt=0, description="highest rate of the one-cycle schedule")
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW weight decay")
    dropout: float = Field(
        default=0.4, ge=0, lt=1, description="before the labels; half of it before the hidden layer"
    )
    positive_weight: float = Field(default=1.0, gt=0, description="weight of a present label in the loss")
    adapter: AdapterTrainingSettings = AdapterTrainingSettings()
