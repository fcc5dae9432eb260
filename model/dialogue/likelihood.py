"""How likely a dialogue model finds given replies, and what it says itself. Knows nothing of who said them or what they are
compared for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.branches import branched_scores
from model.dialogue.dialogue import DialogueModel, Memories, prompt_tokens
from model.dialogue.examples import DialogueExample
from model.llm import Piece, embed, reply_ids
from model.prompt_tree import read_prompts

MOST_TOKENS = 256
"""Of a reply whose likelihood is asked; a longer one has none."""


class ReplyNats(NamedTuple):
    """nats: of the whole reply and its end of turn, the prompt given; tokens: how many these are."""

    nats: float
    tokens: int

    @property
    def a_token(self) -> float:
        return self.nats / self.tokens


class Answered(NamedTuple):
    """The model's own reply, the tokens of its prompt, and how likely each given reply is; None as for `reply_nats`."""

    reply: str
    prompt_tokens: int
    nats: list[ReplyNats | None]


@torch.no_grad()
def answered(
    model: DialogueModel,
    examples: Sequence[DialogueExample],
    replies: Sequence[Sequence[str | None]],
    max_new_tokens: int,
    memories: Memories | None = None,
    write: bool = True,
) -> list[Answered]:
    """Greedy replies and the likelihoods of given ones, each prompt read once for both; of a frozen LLM.

    Examples of a dialogue, one after the other, share what their prompts begin with. write: or else the own replies are "".
    Prompts leave room for the longest reply of all, or where one has none for that, for its own. ValueError names an example
    whose prompt has no room for max_new_tokens.
    """
    kept = model.cached_prefix()
    if kept is None:
        raise ValueError("dialogue: an LLM that is trained answers by `reply_to`")
    said = [[_ids(model, text) for text in row] for row in replies]
    longest = max((len(ids) for row in said for ids in row if ids is not None), default=0)
    prompts: list[list[Piece]] = []
    for i, pieces in enumerate(model.fitting_pieces(examples, memories, max(max_new_tokens, longest))):
        if pieces is None:
            pieces, said[i] = *model.pieces([examples[i]], memories, max_new_tokens), [None] * len(said[i])
        prompts.append(pieces)
    read = read_prompts(
        model.llm,
        kept,
        [embed(model.llm, pieces) for pieces in prompts],
        [[ids for ids in row if ids is not None] for row in said],
        model.tokenizer.eos_token_id,
        max_new_tokens if write else 0,
    )
    found = []
    for pieces, row, (tokens, log_probs) in zip(prompts, said, read, strict=True):
        each = iter(log_probs)
        nats = [None if ids is None else ReplyNats(_nats(next(each)), len(ids)) for ids in row]
        text = model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        found.append(Answered(text, prompt_tokens(pieces), nats))
    return found


def _nats(log_probs: Tensor) -> float:
    return -float(log_probs.double().sum())


def reply_nats(
    model: DialogueModel,
    examples: Sequence[DialogueExample],
    replies: Sequence[Sequence[str | None]],
    batch_size: int,
) -> list[list[ReplyNats | None]]:
    """Of each example's replies, one pass over its prompt for all of them; `batch_size` prompts at once.

    None: of None, of an empty reply, of one of more than MOST_TOKENS tokens, and of a prompt that does not fit the LLM's
    window with the longest reply of its batch.
    """
    found: list[list[ReplyNats | None]] = []
    for start in range(0, len(examples), batch_size):
        part = slice(start, start + batch_size)
        found += _of_batch(model, examples[part], replies[part])
    return found


@torch.no_grad()
def _of_batch(
    model: DialogueModel,
    examples: Sequence[DialogueExample],
    replies: Sequence[Sequence[str | None]],
) -> list[list[ReplyNats | None]]:
    said = [[_ids(model, text) for text in row] for row in replies]
    room = max((len(ids) for row in said for ids in row if ids is not None), default=1)
    prompts = {
        i: embed(model.llm, pieces)
        for i, pieces in enumerate(model.fitting_pieces(examples, None, reply=room))
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
