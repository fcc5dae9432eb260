"""Settings of text generation: how to sample, and how to run the engine.

Knows nothing of prompts or of what the text is for, and imports neither torch nor an engine.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, model_validator

EngineKind = Literal["auto", "vllm", "transformers", "openai"]

LONGEST_PAUSE_S = 30.0
"""The longest pause between two tries of a request to a server."""


class Sampling(BaseModel, frozen=True, extra="forbid"):
    """How the next token is drawn. Every field changes the text, so every field enters the rows' seeds."""

    temperature: float = Field(0.8, ge=0, description="Not in the paper. 0 takes the likeliest token.")
    top_p: float = Field(
        0.95, gt=0, le=1, description="Not in the paper. Probability mass that is drawn from."
    )
    max_new_tokens: int = Field(64, ge=1, description="Not in the paper. Limit of one answer, in tokens.")
    seed: int = Field(0, ge=0, description="Not in the paper. Another seed gives another draw of every row.")


class EngineArgs(BaseModel, frozen=True, extra="forbid"):
    """How the engine runs. None of this is in the paper; the defaults are those measured on a CPU.

    On a GPU `kv_cache_memory_bytes` is what the engine may keep there (None: its share of the GPU's memory), and
    `enforce_eager` False buys speed with a longer start.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="Not in the paper. Golden tests use float32, where batching hardly rounds."
    )
    max_model_len: int = Field(1024, ge=1, description="Not in the paper. Prompt and answer, in tokens.")
    max_num_batched_tokens: int = Field(
        4096, ge=1, description="Not in the paper. vLLM: prompt tokens of one step; at least max_model_len."
    )
    max_num_seqs: int | None = Field(None, ge=1, description="Not in the paper. vLLM: rows decoded at once.")
    enable_chunked_prefill: bool = Field(
        False, description="Not in the paper. vLLM's CPU engine dies when a seeded row's prompt is split."
    )
    enable_prefix_caching: bool = Field(
        True, description="Not in the paper. vLLM: encode what prompts share only once."
    )
    enforce_eager: bool = Field(True, description="Not in the paper. vLLM: no graph compilation.")
    kv_cache_memory_bytes: int | None = Field(
        1 << 28, ge=1, description="Not in the paper. vLLM on CPU would otherwise claim most of the memory."
    )
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="Not in the paper. vLLM on GPU: share of its memory; None: vLLM's own."
    )
    tensor_parallel_size: int = Field(
        1, ge=1, description="Not in the paper. vLLM: GPUs that share the model."
    )
    batch_size: int = Field(32, ge=1, description="Not in the paper. transformers: rows decoded at once.")
    threads: int | None = Field(
        1, ge=1, description="Not in the paper. OpenMP threads of the child process; None: its own choice."
    )
    start_timeout_s: float = Field(900, gt=0, description="Not in the paper. Seconds to load the model.")
    stall_timeout_s: float = Field(
        1800,
        gt=0,
        description="Not in the paper. Seconds without a finished row before the engine counts as hung; "
        "with a server at least what its tries can last.",
    )

    @model_validator(mode="after")
    def _a_step_holds_a_prompt(self) -> EngineArgs:
        if self.max_num_batched_tokens < self.max_model_len:
            raise ValueError(
                f"max_num_batched_tokens {self.max_num_batched_tokens} is below max_model_len {self.max_model_len}:"
                " a long prompt would be split, which seeded rows do not survive; raise the first or lower the second"
            )
        return self


class ServerSettings(BaseModel, frozen=True, extra="forbid"):
    """A server that speaks OpenAI's chat completions, for the engine "openai". None of this is in the paper.

    vLLM's server samples as asked only when started with `--generation-config vllm`. The key itself is read from
    the environment by the engine process alone: it enters no setting, no row and no message.
    """

    base_url: str = Field(
        "http://127.0.0.1:8000/v1", pattern=r"^https?://", description="Not in the paper. Up to and with /v1."
    )
    model: str = Field("", description="Not in the paper. The model's name on the server.")
    concurrency: int = Field(32, ge=1, description="Not in the paper. Requests under way at once.")
    timeout_s: float = Field(120, gt=0, description="Not in the paper. Seconds for one answer.")
    retries: int = Field(
        5,
        ge=0,
        description="Not in the paper. Further tries of a request that failed, before it is an error.",
    )
    backoff_s: float = Field(
        0.5, ge=0, description="Not in the paper. Seconds before the first further try; doubled for each."
    )
    key_variable: str = Field(
        "OPENAI_API_KEY", description="Not in the paper. Environment variable that holds the key, if any."
    )

    @property
    def longest_s(self) -> float:
        """Seconds after which every try of a request has failed, unless a server sends its answer drop by drop."""
        # The timeout holds for the connection, its encryption, the request and the answer each.
        return 4 * self.timeout_s * (self.retries + 1) + LONGEST_PAUSE_S * self.retries


class EngineSettings(BaseModel, frozen=True, extra="forbid"):
    """All that one engine process is told when it starts."""

    model: str = Field(
        description="Local folder of the LLM: config, safetensors, tokenizer, chat template; for the engine "
        "openai its name on the server."
    )
    engine: EngineKind = Field("auto", description="Not in the paper. auto: vLLM where it is installed.")
    args: EngineArgs = EngineArgs()
    sampling: Sampling = Sampling()
    server: ServerSettings = ServerSettings()
    restarts: int = Field(
        2,
        ge=0,
        description="Not in the paper. Times an engine that died or found no memory is started again.",
    )
    restart_backoff_s: float = Field(
        1.0, ge=0, description="Not in the paper. Seconds before the first restart; doubled for each."
    )

    @property
    def stall_limit_s(self) -> float:
        """Seconds without a finished row before the engine counts as hung: not before a server's last try."""
        if self.engine == "openai":
            return max(self.args.stall_timeout_s, self.server.longest_s)
        return self.args.stall_timeout_s
