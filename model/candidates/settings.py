"""Settings of candidate generation: emotions asked for, worked examples, sampling, engine.

Knows nothing of prompts or of how a candidate is chosen, and imports neither torch nor an engine.
"""

from __future__ import annotations

from pydantic import BaseModel, Field, field_validator

from model.generation.settings import (
    HOW_IT_IS_ASKED,
    HOW_LONG_IS_WAITED,
    EngineArgs,
    EngineKind,
    Sampling,
    ServerSettings,
)
from model.prompts import PAPER_WORDS

GENERATION_EMOTIONS = tuple(word.capitalize() for word in PAPER_WORDS)
"""The eight emotion labels of candidate generation, spelled and ordered as in the paper (section 8)."""


class CandidateSettings(BaseModel, frozen=True, extra="forbid"):
    """How candidates are generated (paper sections 3.3 and 8, Table 7)."""

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

    @staticmethod
    def without_effect(engine: str) -> tuple[str, ...]:
        """Dotted names of the settings that change no candidate of this engine, and so are no part of its key."""
        served = engine == "openai"
        server = HOW_IT_IS_ASKED if served else tuple(ServerSettings.model_fields)
        args = tuple(EngineArgs.model_fields) if served else HOW_LONG_IS_WAITED
        return (*(f"server.{name}" for name in server), *(f"engine_args.{name}" for name in args))

    @property
    def sampling(self) -> Sampling:
        """The part that an engine samples with."""
        return Sampling(
            temperature=self.temperature, top_p=self.top_p, max_new_tokens=self.max_new_tokens, seed=self.seed
        )
