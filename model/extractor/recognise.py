"""Emotion read-off: of the seven answer words, the one the LLM finds likeliest, end of turn included.

Knows nothing of features or of training.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.branches import branched_log_probs
from model.llm import chat_pieces, reply_ids, strip_placeholders
from model.prompts import AUDIO, EMOTION_WORDS, TEXT, VIDEO, emotion_prompt

EMOTIONS = tuple(EMOTION_WORDS)


def emotion_pieces(
    tokenizer, audio: Tensor | None, video: Tensor | None, sentence: str | None, text: Tensor | None = None
) -> list[Tensor]:
    """The prompt of table 4 as pieces, with embeddings [n, d] of the modalities given, or of text alone."""
    given = ((AUDIO, audio), (VIDEO, video), (TEXT, text))
    slots = {name: value for name, value in given if value is not None}
    sentence = None if sentence is None else strip_placeholders(sentence, (AUDIO, VIDEO, TEXT))
    prompt = emotion_prompt(audio is not None, video is not None, sentence, text is not None)
    return chat_pieces(tokenizer, prompt, slots)


def shared_start(tokenizer) -> Tensor:
    """Token ids [P] that begin the prompt of table 4 whatever lines follow the instruction."""
    slot = torch.zeros(1, 1)
    variants = [
        emotion_pieces(tokenizer, slot, None, None)[0],
        emotion_pieces(tokenizer, None, slot, None)[0],
        emotion_pieces(tokenizer, None, None, "a")[0],
        emotion_pieces(tokenizer, None, None, "a", slot)[0],
    ]
    shared = 0
    while all(shared < len(v) and v[shared] == variants[0][shared] for v in variants):
        shared += 1
    return variants[0][:shared]


@torch.no_grad()
def emotion_scores(
    llm: nn.Module, tokenizer, prompts: Sequence[Tensor], prefix: list[tuple[Tensor, Tensor]] | None = None
) -> Tensor:
    """Summed log-likelihood fp32 [B, 7] of each answer word and the end of turn, in the order of EMOTIONS.

    prompts: input embeddings [T_i, d], without the start that `prefix` holds.
    """
    answers = [reply_ids(tokenizer, EMOTION_WORDS[emotion]) for emotion in EMOTIONS]
    log_probs, owner = branched_log_probs(llm, prompts, [answers] * len(prompts), prefix)
    scores = torch.zeros(len(prompts) * len(answers), device=log_probs.device)
    return scores.index_add(0, owner, log_probs).view(len(prompts), len(answers))


def recognise(
    llm: nn.Module, tokenizer, prompts: Sequence[Tensor], prefix: list[tuple[Tensor, Tensor]] | None = None
) -> list[str]:
    """The likeliest of the seven emotions for each prompt; ties go to the first in EMOTIONS."""
    return [EMOTIONS[i] for i in emotion_scores(llm, tokenizer, prompts, prefix).argmax(dim=1).tolist()]
