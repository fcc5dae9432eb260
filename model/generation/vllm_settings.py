"""Settings of vLLM where it is given prompts as embeddings. Knows nothing of who asks, and imports neither torch nor vLLM."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator

from model.generation.settings import EngineArgs


class VllmSettings(BaseModel, frozen=True, extra="forbid"):
    """How vLLM runs. None of this is in the paper; it computes in the dtype of the LLM's training."""

    max_model_len: int = Field(
        4096,
        ge=1,
        description="Not in the paper. Prompt and reply, in tokens, where the LLM numbers as many; of a longer history the "
        "oldest utterances are left out.",
    )
    max_num_batched_tokens: int = Field(
        8192, ge=1, description="Not in the paper. Prompt tokens of one step; at least max_model_len."
    )
    max_num_seqs: int = Field(256, ge=1, description="Not in the paper. Replies decoded at once.")
    enforce_eager: bool | None = Field(
        None, description="Not in the paper. No CUDA graphs. None: graphs on a GPU, none on a CPU."
    )
    kv_cache_memory_bytes: int | None = Field(
        1 << 28, ge=1, description="Not in the paper. Keys and values; None: vLLM's share of the memory."
    )
    gpu_memory_utilization: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Not in the paper. Share of a GPU's memory; None: what weights and kv_cache_memory_bytes come to.",
    )
    tensor_parallel_size: int = Field(1, ge=1, description="Not in the paper. GPUs that share the model.")

    @model_validator(mode="after")
    def _a_step_holds_a_prompt(self) -> VllmSettings:
        if self.max_num_batched_tokens < self.max_model_len:
            raise ValueError(
                f"max_num_batched_tokens {self.max_num_batched_tokens} is below max_model_len {self.max_model_len}: a "
                "prompt is read in one step; raise the first or lower the second"
            )
        return self

    def engine_args(self, dtype: Literal["float32", "bfloat16"], window: int) -> EngineArgs:
        """window: positions that the LLM numbers, and prompts were made for."""
        return EngineArgs(dtype=dtype, **self.model_dump() | {"max_model_len": window})
