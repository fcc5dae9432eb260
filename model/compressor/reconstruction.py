"""The reconstruction task (paper, table 5): utterances from their memories alone, through the LLM.

Knows nothing of how memories are made or which weights are trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.branches import branched_scores
from model.llm import chat_pieces, embed, prefix_cache, reply_ids, token_ids
from model.prompts import MEMORY, RECONSTRUCT_DIALOGUE, RECONSTRUCT_UTTERANCE, reconstruction_prompt


class Reconstruction:
    """The prompt of one form of the task (one utterance, or a dialogue), tokenized once.

    With `cached` the constant start of the prompt is encoded once: for a frozen LLM only. With `bare` there is no
    instruction and no template: the token that begins a sequence, the memories, a new line. That is for an LLM with a
    reader, which has learnt the task; a few tokens a row instead of fifty.
    """

    def __init__(self, llm: nn.Module, tokenizer, dialogue: bool, cached: bool, bare: bool = False):
        self.llm, self.tokenizer, self.dialogue, self.bare = llm, tokenizer, dialogue, bare
        self.table = llm.get_input_embeddings().weight
        start, end = self._around_memories()
        self.prefix = prefix_cache(llm, start) if cached else None
        with torch.no_grad():
            self.start, self.end = embed(llm, [start]), embed(llm, [end])
        self.overhead = len(end) if cached else len(start) + len(end)
        """Template and instruction tokens computed for every row."""

    def _around_memories(self) -> tuple[Tensor, Tensor]:
        """Token ids before and after the memories."""
        if self.bare:
            begin = self.tokenizer.bos_token_id
            begin = self.tokenizer.eos_token_id if begin is None else begin
            return torch.tensor([begin]), token_ids(self.tokenizer, "\n")
        slot = {MEMORY: torch.zeros(1, self.table.shape[1])}
        start, _, end = chat_pieces(self.tokenizer, reconstruction_prompt(self.dialogue), slot)
        return start, end

    def target(self, utterances: Sequence[str]) -> Tensor:
        """Token ids of the utterances, one a line as in figure 11, and the end-of-turn token."""
        return reply_ids(self.tokenizer, "\n".join(utterances))

    def prompt(self, memories: Tensor, whole: bool = False) -> Tensor:
        """Input embeddings [T, d] around memories [n, d]; without the cached start unless `whole`."""
        start = [self.start] if whole or self.prefix is None else []
        return torch.cat([*start, memories.to(self.table), self.end])

    def log_probs(self, memories: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probability of every target token [N] in fp32, and whether it is the likeliest [N]."""
        prompts = [self.prompt(m) for m in memories]
        scores = branched_scores(self.llm, prompts, [[target] for target in targets], self.prefix)
        return scores.log_probs, scores.hits

    def without_memory(self, targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """As `log_probs`, the memory line left out of the prompt: what the LLM guesses by itself."""
        prompts = [self.empty_prompt()] * len(targets)
        scores = branched_scores(self.llm, prompts, [[target] for target in targets])
        return scores.log_probs, scores.hits

    @torch.no_grad()
    def empty_prompt(self) -> Tensor:
        """Input embeddings [T, d] of the prompt without its line of memories."""
        if self.bare:
            return torch.cat([self.start, self.end])
        instruction = RECONSTRUCT_DIALOGUE if self.dialogue else RECONSTRUCT_UTTERANCE
        return embed(self.llm, chat_pieces(self.tokenizer, instruction, {}))

    def text_tokens(self, text: str) -> int:
        """Tokens of a text under the LLM's tokenizer."""
        return len(token_ids(self.tokenizer, text))
