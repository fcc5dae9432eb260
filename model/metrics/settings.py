"""Settings of the metrics.

Knows nothing of how metrics are computed, and imports no torch.
"""

from pydantic import BaseModel, Field


class BertScoreSettings(BaseModel, frozen=True, extra="forbid"):
    """BERTScore F1 without rescaling and without idf weights. The paper names neither model nor layer."""

    weights: str = Field(default="roberta-large", description="weight name or folder; not in the paper")
    num_layers: int = Field(
        default=17,
        ge=1,
        description="layer whose states are compared; 17 is upstream's choice for roberta-large; not in the paper",
    )
    batch_size: int = Field(default=64, ge=1, description="sentences a batch; not in the paper")


class BootstrapSettings(BaseModel, frozen=True, extra="forbid"):
    """Bootstrap of a mean, over dialogues. Not in the paper."""

    resamples: int = Field(default=1000, ge=1, description="samples drawn; not in the paper")
    level: float = Field(default=0.95, gt=0, lt=1, description="coverage of the interval; not in the paper")
    seed: int = Field(default=0, ge=0, description="seed of the samples; not in the paper")
