"""The memory that nothing was trained for: the mean of each utterance's token embeddings, in the place of its <MEM>.

A learnt memory is worth what it is worth beside this one. It holds the words and neither their order nor what came
before; the LLM's adapter learns to read it. Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.llm import token_ids
from model.spoken import Spoken


class MeanMemory:
    """One memory an utterance: the plain mean of the LLM's embeddings [d] of the bare text's tokens. Roles are left out."""

    def __init__(self, tokenizer, table: Tensor):
        """table: the LLM's input embeddings [vocabulary, d]."""
        self.tokenizer, self.table = tokenizer, table.detach()

    def ids(self, text: str) -> Tensor:
        """Token ids [n] of an utterance. ValueError where it has none."""
        ids = token_ids(self.tokenizer, text)
        if not len(ids):
            raise ValueError("an utterance without tokens has no memory; leave it out of the history")
        return ids

    def compress(
        self,
        dialogues: Sequence[Sequence[Spoken]],
        dtype: torch.dtype = torch.float32,
        device: str | None = None,
    ) -> list[Tensor]:
        """Memories [n_utterances, d] of dialogues; dtype, device: what they become as soon as they are made."""
        none = self.table.new_zeros(0, self.table.shape[1], dtype=torch.float32)
        made = (
            torch.stack([self._mean(u) for u in dialogue]) if dialogue else none for dialogue in dialogues
        )
        return [memories.to(device=device, dtype=dtype) for memories in made]

    def counts(self, dialogue: Sequence[Spoken]) -> list[int]:
        """One memory an utterance."""
        return [1] * len(dialogue)

    def reads_whole(self, text: str) -> bool:
        """A mean is of all tokens, however many."""
        return True

    def _mean(self, utterance: Spoken) -> Tensor:
        return self.table[self.ids(utterance.text).to(self.table.device)].float().mean(0)
