"""Settings of candidate generation: emotions asked for, worked examples, sampling, engine.

Knows nothing of prompts or of how a candidate is chosen, and imports neither torch nor an engine.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from model.generation.settings import (
    HOW_LONG_IS_WAITED,
    TRANSPORT_FIELDS,
    EngineArgs,
    EngineKind,
    Sampling,
    ServerSettings,
)
from model.prompts import PAPER_WORDS

GENERATION_EMOTIONS = tuple(word.capitalize() for word in PAPER_WORDS)
"""The eight emotion labels of candidate generation, spelled and ordered as in the paper (section 8)."""


class DialogueSamples(BaseModel, frozen=True, extra="forbid"):
    """Candidates that are samples of the dialogue-finetuned LLM, asked for no emotion. None of this is in the paper."""

    history: Literal["memory", "text"] = Field(
        "memory",
        description="Not in the paper. Which finetuned LLM: memory is the one that EPO goes on from, whose prompts hold "
        "memories, and clips where there are any; only transformers can take those, so that it samples them whatever "
        "`engine` says. text is the one with its history as text, which vLLM samples too.",
    )
    samples: int = Field(8, ge=2, description="Not in the paper. Samples of each exchange.")
    temperature: float = Field(1.0, gt=0, description="Not in the paper. 1 samples the LLM as it is.")
    top_p: float = Field(1.0, gt=0, le=1, description="Not in the paper. 1 leaves nothing out.")


class CandidateSettings(BaseModel, frozen=True, extra="forbid"):
    """How candidates are generated (paper sections 3.3 and 8, Table 7)."""

    source: Literal["prompted", "dialogue"] = Field(
        "prompted",
        description="prompted: the LLM as it is, once in each emotion, as in the paper. dialogue (not in the paper): "
        "samples of the LLM after dialogue finetuning, in the dialogue's own prompt; they wait for that training, and "
        "are made anew with it.",
    )
    dialogue: DialogueSamples = Field(DialogueSamples(), description="Read where the source is dialogue.")
    emotions: tuple[str, ...] = Field(
        GENERATION_EMOTIONS, min_length=1, description="One candidate is generated for each (section 8)."
    )
    examples: int = Field(
        0,
        ge=0,
        le=2,
        description="Not in the paper, which has none. Worked exchanges put before the prompt: a small LLM then "
        "answers the sentence instead of talking about it.",
    )
    compare: int = Field(
        0,
        ge=0,
        description="Not in the paper. Exchanges of each shard that are asked once more without the worked "
        "examples, so that the report can say what these change.",
    )
    history: int = Field(
        0,
        ge=0,
        description="Not in the paper, whose prompt has the sentence alone. Turns before it that are shown.",
    )
    temperature: float = Field(0.8, ge=0, description="Not in the paper.")
    top_p: float = Field(0.95, gt=0, le=1, description="Not in the paper.")
    max_new_tokens: int = Field(64, ge=1, description="Not in the paper. Limit of one candidate, in tokens.")
    keep_garbled: bool = Field(
        False,
        description="Not in the paper. A candidate with characters that are no text is used without them, instead of "
        "being turned away: for the random LLM of the tests, which writes bytes.",
    )
    seed: int = Field(0, ge=0, description="Not in the paper. Another seed gives other candidates.")
    budget: int | None = Field(
        None, ge=1, description="Not in the paper. Candidates generated in all; None: no limit."
    )
    engine: EngineKind = Field("auto", description="Not in the paper. auto: vLLM where it is installed.")
    engine_args: EngineArgs = Field(EngineArgs(), description="Not in the paper. How the engine runs.")
    server: ServerSettings = Field(
        ServerSettings(), description="Not in the paper. The server that the engine openai asks."
    )

    @field_validator("emotions")
    @classmethod
    def _known_and_once(cls, emotions: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [emotion for emotion in emotions if emotion not in GENERATION_EMOTIONS]
        if unknown:
            raise ValueError(f"unknown emotions {unknown}; choose from {', '.join(GENERATION_EMOTIONS)}")
        if len(set(emotions)) < len(emotions):
            raise ValueError(f"an emotion is listed twice in {list(emotions)}; list each once")
        return emotions

    @model_validator(mode="after")
    def _no_server_has_the_finetuned_llm(self) -> CandidateSettings:
        if self.source == "dialogue" and self.engine == "openai":
            raise ValueError(
                "source=dialogue samples the LLM that this run finetunes, which no server has: set engine to auto, "
                "vllm or transformers"
            )
        return self

    @property
    def per_exchange(self) -> int:
        """Candidates of one exchange."""
        return self.dialogue.samples if self.source == "dialogue" else len(self.emotions)

    @staticmethod
    def without_effect(engine: str) -> tuple[str, ...]:
        """Dotted names of the settings that change no candidate of this engine, and so are no part of its key."""
        served = engine == "openai"
        server = TRANSPORT_FIELDS if served else tuple(ServerSettings.model_fields)
        args = tuple(EngineArgs.model_fields) if served else HOW_LONG_IS_WAITED
        return (*(f"server.{name}" for name in server), *(f"engine_args.{name}" for name in args))

    @property
    def dialogue_sampling(self) -> Sampling:
        """As `sampling`, where the source is dialogue."""
        asked = self.dialogue
        return Sampling(
            temperature=asked.temperature,
            top_p=asked.top_p,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
        )

    @property
    def sampling(self) -> Sampling:
        """The part that an engine samples with."""
        return Sampling(
            temperature=self.temperature, top_p=self.top_p, max_new_tokens=self.max_new_tokens, seed=self.seed
        )
