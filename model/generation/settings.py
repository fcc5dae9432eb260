"""Settings of text generation: how to sample, and how to run the engine.

Knows nothing of prompts or of what the text is for, and imports neither torch nor an engine.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

EngineKind = Literal["auto", "vllm", "transformers", "openai"]

SamplingField = Literal["temperature", "top_p", "seed"]
Sign = Literal["models", "fingerprint", "probe"]
"""What tells one model behind a server's name from another."""

TRANSPORT_FIELDS = (
    "identify_every",
    "concurrency",
    "timeout_s",
    "connect_timeout_s",
    "retries",
    "backoff_s",
    "longest_pause_s",
    "max_bytes",
    "bad_in_a_row",
    "key_variable",
)
"""Fields of ServerSettings that change no answer, and so are part of no key; the others say what is asked, of whom."""

HOW_LONG_IS_WAITED = ("start_timeout_s", "stall_timeout_s")
"""Fields of EngineArgs that change no answer."""


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

    On a GPU `kv_cache_memory_bytes` is what the engine may keep there (None: its share of the GPU's memory).
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
    enforce_eager: bool | None = Field(
        None,
        description="Not in the paper. vLLM: no graph compilation. None: graphs on a GPU, which buy speed with a longer "
        "start; none on a CPU.",
    )
    kv_cache_memory_bytes: int | None = Field(
        1 << 28, ge=1, description="Not in the paper. vLLM on CPU would otherwise claim most of the memory."
    )
    gpu_memory_utilization: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Not in the paper. vLLM on GPU: share of its memory; None: what weights and "
        "kv_cache_memory_bytes come to, or without the latter vLLM's own.",
    )
    tensor_parallel_size: int = Field(
        1,
        ge=1,
        description="Not in the paper. vLLM: GPUs that share the model. For engines beside one another, each with the whole "
        "model on GPUs of its own, see run.candidate_workers.",
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

    def is_eager(self, on_cpu: bool) -> bool:
        """Whether vLLM goes without graphs."""
        return on_cpu if self.enforce_eager is None else self.enforce_eager

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

    Its fields are of two kinds: what is asked, and of whom, can change an answer and is part of the candidates' key;
    how it is asked (`TRANSPORT_FIELDS`) cannot, and is not. vLLM's server samples as asked only when started with
    `--generation-config vllm`. The key itself is read from the environment by the engine process alone: it enters
    no setting, no row and no message.
    """

    base_url: str = Field(
        "http://127.0.0.1:8000/v1", pattern=r"^https?://", description="Not in the paper. Up to and with /v1."
    )
    model: str = Field("", description="Not in the paper. The model's name on the server.")
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="Not in the paper. What the server calls the limit of an answer."
    )
    leave_out: tuple[SamplingField, ...] = Field(
        (),
        description="Not in the paper. Fields that the server refuses and that are not sent: it goes by its own.",
    )
    extra: str = Field(
        "",
        description="Not in the paper. A JSON object of further fields to send, such as "
        '{"chat_template_kwargs": {"enable_thinking": false}}.',
    )
    identify_by: tuple[Sign, ...] = Field(
        ("models", "fingerprint", "probe"),
        description="Not in the paper. What tells the model behind the name: its entry in the list of models, "
        "system_fingerprint, answers at temperature 0. What a server lacks is passed over.",
    )
    identity_fields: tuple[str, ...] = Field(
        ("id", "root", "parent", "owned_by", "meta", "digest", "revision"),
        description="Not in the paper. Fields of that entry that stay as long as the model does; with Ollama also "
        "created.",
    )
    identify_every: int = Field(
        256, ge=1, description="Not in the paper. Answers after which the model is identified again."
    )
    concurrency: int = Field(32, ge=1, description="Not in the paper. Requests under way at once.")
    timeout_s: float = Field(
        120, gt=0, description="Not in the paper. Seconds for one answer, to its last byte."
    )
    connect_timeout_s: float = Field(10, gt=0, description="Not in the paper. Seconds for a connection.")
    retries: int = Field(
        5,
        ge=0,
        description="Not in the paper. Further tries of a request that failed.",
    )
    backoff_s: float = Field(
        0.5, ge=0, description="Not in the paper. Seconds before the first further try; doubled for each."
    )
    longest_pause_s: float = Field(
        30,
        ge=0,
        description="Not in the paper. The longest pause before a further try, whatever is asked for.",
    )
    max_bytes: int = Field(1 << 20, ge=1, description="Not in the paper. The longest answer that is read.")
    bad_in_a_row: int | None = Field(
        32,
        ge=1,
        description="Not in the paper. Answers in a row that are no replies before the run stops; None: never.",
    )
    key_variable: str = Field(
        "OPENAI_API_KEY", description="Not in the paper. Environment variable that holds the key, if any."
    )

    @field_validator("extra", mode="before")
    @classmethod
    def _an_object_of_fields(cls, extra: object) -> str:
        """The object in one spelling, so that it is part of a key; a setting may give it as it is, or as text."""
        try:
            fields = json.loads(extra.strip() or "{}") if isinstance(extra, str) else extra
        except ValueError as error:
            raise ValueError(f"not JSON ({error})") from None
        if not isinstance(fields, dict):
            raise ValueError("give a JSON object of fields")
        ours = sorted(fields.keys() & {"model", "messages", "stream", "n"})
        if ours:
            raise ValueError(f"{', '.join(ours)} cannot be set here")
        return json.dumps(fields, sort_keys=True) if fields else ""

    @property
    def longest_s(self) -> float:
        """Seconds after which every try of a request has failed, whatever the server does."""
        return self.timeout_s * (self.retries + 1) + self.longest_pause_s * self.retries


class SettingNames(BaseModel, frozen=True, extra="forbid"):
    """What a person calls the settings of an engine, for messages: another stage has other names for them."""

    server: str = "candidates.server"
    args: str = "candidates.engine_args"
    max_new_tokens: str = "candidates.max_new_tokens"
    history: str = "candidates.history"


class EngineSettings(BaseModel, frozen=True, extra="forbid"):
    """All that one engine process is told when it starts."""

    model: str = Field(
        description="Local folder of the LLM: config, safetensors, tokenizer, chat template; for the engine "
        "openai its name on the server."
    )
    engine: EngineKind | Literal["chatbot"] = Field(
        "auto",
        description="Not in the paper. auto: vLLM where it is installed; chatbot: a dialogue model of before chat LLMs.",
    )
    names: SettingNames = SettingNames()
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
            # Some seconds of its own, in which the last try's failure is told.
            return max(self.args.stall_timeout_s, self.server.longest_s + 60)
        return self.args.stall_timeout_s
