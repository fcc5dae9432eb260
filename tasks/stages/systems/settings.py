"""Settings of the systems of table 1 that are no rung of the ladder. None of them are asked unless a run names them.

Knows nothing of how they are asked, and imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from model.generation.settings import EngineArgs, EngineSettings, Sampling, ServerSettings, SettingNames
from model.multimodal.settings import MultimodalTraining

PaperSystem = Literal["Claude 3.5 haiku", "Gemini 1.5 flash", "GPT-4o"]
"""The systems of table 1 that an endpoint can stand for."""


PaperMultimodal = Literal["Qwen-Audio-Chat†", "LLaVA-NeXT†"]
"""Those that a multimodal LLM can stand for."""


class Prices(BaseModel, frozen=True, extra="forbid"):
    """What a system's provider asks for a million tokens."""

    prompt: float = Field(ge=0, description="Of prompts.")
    reply: float = Field(ge=0, description="Of replies.")
    currency: str = Field("USD", min_length=1)


class _System(BaseModel, frozen=True, extra="forbid"):
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9.-]*$",
        description="By which it is known here: small letters, digits, dots, hyphens.",
    )
    title: str = Field("", description="What tables call it; empty: its name.")

    @property
    def shown(self) -> str:
        return self.title or self.name

    @property
    def row(self) -> str:
        """What its replies are labelled with where those of a rung have the rung's name."""
        return f"system-{self.name}"


class EndpointSystem(_System):
    """A model behind an OpenAI-compatible endpoint, which is given the history in its prompt (section 4.3)."""

    kind: Literal["endpoint"] = "endpoint"
    server: ServerSettings
    paper: PaperSystem | None = Field(None, description="The system of table 1 that it stands beside.")
    prices: Prices | None = Field(None, description="Without them the tokens are counted and no cost.")

    def as_asked(self) -> EndpointSystem:
        """Without what only tables say of it, which changes no reply."""
        return self.model_copy(update={"title": "", "paper": None, "prices": None})

    def engine(self, model: str, max_new_tokens: int) -> EngineSettings:
        """How it is asked for greedy replies, by the model's name on its server."""
        return EngineSettings(
            model=model,
            engine="openai",
            sampling=_greedy(max_new_tokens),
            server=self.server,
            names=SettingNames(
                server=f"systems.{self.name}.server",
                args=f"systems.{self.name}.server",
                max_new_tokens="replies.max_new_tokens",
                history="dialogue.max_history_utterances",
            ),
        )


class ChatbotSystem(_System):
    """A dialogue model of before chat LLMs, such as DialoGPT or BlenderBot, which is given the turns as they are."""

    kind: Literal["chatbot"] = "chatbot"
    weights: str = Field(
        min_length=1, description="A folder with config, safetensors and tokenizer, or a catalogue name."
    )
    engine_args: EngineArgs = Field(
        EngineArgs(dtype="float32", threads=None),
        description="Of these dtype and batch_size, and how long is waited.",
    )

    def as_asked(self) -> ChatbotSystem:
        """Without what only tables say of it, which changes no reply."""
        return self.model_copy(update={"title": ""})

    def engine(self, model: str, max_new_tokens: int) -> EngineSettings:
        """How it is asked for greedy replies; model: the folder of its weights."""
        return EngineSettings(
            model=model,
            engine="chatbot",
            args=self.engine_args,
            sampling=_greedy(max_new_tokens),
            names=SettingNames(args=f"systems.{self.name}.engine_args"),
        )


class MultimodalSystem(_System):
    """A multimodal LLM, which hears or sees the sentence itself beside table 6's text: of Qwen2-Audio's or LLaVA-NeXT's kind."""

    kind: Literal["multimodal"] = "multimodal"
    weights: str = Field(
        min_length=1, description="A folder with config, safetensors, tokenizer and processor."
    )
    engine: Literal["transformers", "vllm"] = Field("transformers", description="Who writes the replies.")
    engine_args: EngineArgs = Field(
        EngineArgs(max_model_len=4096, threads=None),
        description="A clip has tokens too: some 25 a second of sound, up to 2,900 a picture.",
    )
    finetune: MultimodalTraining | None = Field(
        None,
        description="A LoRA on the exchanges that the rungs are trained on (the † of table 1); none: as it came.",
    )
    paper: PaperMultimodal | None = Field(None, description="The system of table 1 that it stands beside.")

    def as_asked(self) -> MultimodalSystem:
        """Without what only tables say of it, and without its training, whose adapter is a part of its own."""
        return self.model_copy(update={"title": "", "paper": None, "finetune": None})

    @model_validator(mode="after")
    def _the_paper_finetunes_it(self) -> MultimodalSystem:
        if self.paper is not None and self.finetune is None:
            raise ValueError(f"{self.paper} is finetuned in table 1: set finetune, or leave paper out")
        return self


def _greedy(max_new_tokens: int) -> Sampling:
    return Sampling(temperature=0, top_p=1, max_new_tokens=max_new_tokens)


System = EndpointSystem | ChatbotSystem
"""Those that are asked with text alone."""
AnySystem = Annotated[System | MultimodalSystem, Field(discriminator="kind")]
