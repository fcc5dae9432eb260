"""How likely a dialogue model finds given replies. Knows nothing of who said them or what they are compared for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.branches import branched_scores
from model.dialogue.dialogue import DialogueModel, Memories
from model.dialogue.examples import DialogueExample
from model.llm import embed, reply_ids

MOST_TOKENS = 256
"""Of a reply whose likelihood is asked; a longer one has none."""


class ReplyNats(NamedTuple):
    """nats: of the whole reply and its end of turn, the prompt given; tokens: how many these are."""

    nats: float
    tokens: int

    @property
    def a_token(self) -> float:
        return self.nats / self.tokens


def reply_nats(
    model: DialogueModel,
    examples: Sequence[DialogueExample],
    replies: Sequence[Sequence[str | None]],
    batch_size: int,
    memories: Memories | None = None,
) -> list[list[ReplyNats | None]]:
    """Of each example's replies, one pass over its prompt for all of them; `batch_size` prompts at once.

    memories: of the examples' histories, where they are known already. None: of None, of an empty reply, of one of more than MOST_TOKENS tokens, and of a prompt that does not fit the
    LLM's window with the longest reply of its batch.
    """
    found: list[list[ReplyNats | None]] = []
    for start in range(0, len(examples), batch_size):
        part = slice(start, start + batch_size)
        found += _of_batch(model, examples[part], replies[part], memories)
    return found


@torch.no_grad()
def _of_batch(
    model: DialogueModel,
    examples: Sequence[DialogueExample],
    replies: Sequence[Sequence[str | None]],
    memories: Memories | None,
) -> list[list[ReplyNats | None]]:
    said = [[_ids(model, text) for text in row] for row in replies]
    room = max((len(ids) for row in said for ids in row if ids is not None), default=1)
    prompts = {
        i: embed(model.llm, pieces)
        for i, pieces in enumerate(model.fitting_pieces(examples, memories, reply=room))
        if pieces is not None and any(ids is not None for ids in said[i])
    }
    if not prompts:
        return [[None] * len(row) for row in replies]
    rows = [[ids for ids in said[i] if ids is not None] for i in prompts]
    scores = branched_scores(model.llm, list(prompts.values()), rows)
    nats = torch.zeros(sum(map(len, rows)), dtype=torch.float64)
    nats.index_add_(0, scores.owner.cpu(), -scores.log_probs.double().cpu())
    each = iter(nats.tolist())
    return [
        [None if ids is None or i not in prompts else ReplyNats(next(each), len(ids)) for ids in row]
        for i, row in enumerate(said)
    ]


def _ids(model: DialogueModel, text: str | None) -> Tensor | None:
    if not text or not text.strip():
        return None
    ids = reply_ids(model.tokenizer, text)
    return ids if len(ids) <= MOST_TOKENS else None
