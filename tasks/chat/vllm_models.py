"""A run's rungs answered by vLLM: it holds the LLM and all adapters, and this process what prompts are made of.

For a server: nothing here reads memories back or recognises emotions. Knows nothing of conversations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.embeddings_only import EmbeddingsAlone
from model.generation.streaming import Decoder, Row
from model.generation.vllm_start import vllm_rows
from model.zoo.resolve import resolve
from tasks.chat.models import Models
from tasks.chat.weights import Trained

if TYPE_CHECKING:
    from model.generation.vllm_rows import VllmRows


class VllmModels(Models):
    """Those of one run, for the rungs that are named."""

    def __init__(self, found: Trained, rungs: Iterable[str]):
        """EngineError where vLLM does not start."""
        settings, dtype = found.settings.replies.vllm, found.settings.dialogue.training.dtype
        folder = resolve(found.settings.llm.weights)
        llm = EmbeddingsAlone(folder, dtype, settings.max_model_len)
        super().__init__(found, llm)
        adapters = [found.rungs[name].adapter for name in rungs]
        self.engine = vllm_rows(
            folder,
            settings.engine_args(dtype, llm.window),
            [llm.tokenizer.eos_token_id],
            [adapter for adapter in adapters if adapter is not None],
        )

    def decoder(self, name: str) -> Decoder:
        return VllmDecoder(self.engine, self.found.rungs[name].adapter)

    def close(self) -> None:
        self.engine.close()


class VllmDecoder:
    """A rung's rows in the engine that all rungs share: a step of one rung is a step of all."""

    def __init__(self, engine: VllmRows, adapter: Path | None):
        self.engine, self.adapter = engine, adapter
        self.rows: list[Row] = []

    def join(self, row: Row) -> None:
        """Its first token comes with a step."""
        self.engine.add(row, self.adapter)
        self.rows.append(row)

    def step(self) -> list[Row]:
        rows = list(self.rows)
        self.engine.step()
        self.rows = [row for row in self.rows if row.ended is None]
        return rows

    def leave(self, gone: Sequence[Row]) -> None:
        self.engine.leave(gone)
        self.rows = [row for row in self.rows if row not in gone]
