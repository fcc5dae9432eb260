"""What is needed to build a compressor of either kind, as its config.json has it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from model.compressor.mamba import MambaShape


class CompressorError(ValueError):
    """A compressor folder that cannot be loaded, or an utterance it cannot read."""


class CompressorShape(BaseModel, frozen=True, extra="forbid"):
    """All that is needed to build a compressor, and how its memories are read back."""

    kind: Literal["small", "checkpoint"]
    llm_width: int
    hidden: int
    max_utterance_tokens: int
    roles: int
    layers: int = 0
    state: int = 0
    conv: int = 0
    expand: int = 0
    checkpoint: dict = Field({}, description="Of a checkpoint: vocab_size and what MambaShape holds.")
    memory_span: int | None = Field(
        None, description="Most tokens that one memory covers; None: an utterance's."
    )
    prompt: Literal["bare"] | None = Field(
        None, description="What memories are read back with; None: table 5."
    )

    @property
    def mamba(self) -> MambaShape:
        """Sizes of the Mamba itself."""
        if self.kind == "checkpoint":
            sizes = {name: value for name, value in self.checkpoint.items() if name != "vocab_size"}
            return MambaShape(**sizes)
        return MambaShape(
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            state_size=self.state,
            conv_kernel=self.conv,
            expand=self.expand,
        )

    @property
    def places(self) -> int:
        """Most tokens that one memory can cover."""
        return min(self.memory_span or self.max_utterance_tokens, self.max_utterance_tokens)
