"""Settings of the judge: which LLM it is, and how much it is asked. There is none unless a run names one.

Knows nothing of what it is asked, and imports no torch.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from model.generation.settings import EngineSettings, Sampling, ServerSettings, SettingNames


class JudgeSettings(BaseModel, frozen=True, extra="forbid"):
    """An LLM behind an OpenAI-compatible endpoint that compares replies. None of it is in the paper."""

    server: ServerSettings
    against: tuple[str, ...] = Field(
        (),
        description="What the last rung's replies are compared with: rungs, and systems as system-NAME; empty: all. By name "
        'alone also floor-okay (always "Okay."), floor-people (a human reply of another dialogue) and human (the true reply).',
    )
    exchanges: int = Field(
        100, ge=1, description="Exchanges of each comparison, spread over the datasets; two calls each."
    )
    history: int = Field(8, ge=0, description="Utterances before the sentence that the judge is shown.")
    max_new_tokens: int = Field(32, ge=1, description="Limit of its answer, in tokens.")
    seed: int = Field(0, description="Chooses the exchanges.")
    every_seed: bool = Field(
        False,
        description="Also asked about the replies of each further of `run.seeds`, which costs as many calls again.",
    )

    @property
    def engine(self) -> EngineSettings:
        """How it is asked, greedily."""
        return EngineSettings(
            model=self.server.model,
            engine="openai",
            sampling=Sampling(temperature=0, top_p=1, max_new_tokens=self.max_new_tokens),
            server=self.server,
            names=SettingNames(
                server="judge.server",
                args="judge.server",
                max_new_tokens="judge.max_new_tokens",
                history="judge.history",
            ),
        )
