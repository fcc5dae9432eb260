"""A labelled clip in one of the input settings of figure 6, and what the frozen LLM says of it.

Knows nothing of training, of datasets or of storage.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.branches import reply_log_probs
from model.draws import draw_number
from model.extractor.extractor import Extractor
from model.extractor.recognise import EMOTIONS, emotion_pieces, emotion_scores, shared_start
from model.extractor.settings import ExtractorSettings
from model.features.stored import Features, in_memory
from model.llm import embed, prefix_cache, reply_ids
from model.metrics.donors import with_others
from model.processes import Processes
from model.prompts import EMOTION_WORDS

SILENT, SPOKEN = ("A", "V", "A+V"), ("T", "A+T", "V+T", "A+V+T")
INPUT_SETTINGS = (*SILENT, *SPOKEN)
"""The bars of figure 6. In T, which has no clip to read, embeddings that read nothing are trained instead."""


@dataclass(frozen=True)
class EmotionExample:
    """One clip with its label: audio [Ta, d] or None, video [Tv, d] or None, emotion one of EMOTIONS.

    dialogue: what other clips are alike to it, a dialogue or an actor; "" where it stands alone.
    """

    key: str
    audio: Features | None
    video: Features | None
    sentence: str
    emotion: str
    dataset: str
    dialogue: str = ""

    @property
    def group(self) -> str:
        """What tells clips of one dialogue, or actor, from those of another."""
        return self.dialogue or self.key


@dataclass(frozen=True)
class Row:
    """An example in one input setting."""

    example: EmotionExample
    setting: str


class Recogniser:
    """Frozen LLM and extractor as one function of rows. The prompt's constant start is encoded once."""

    def __init__(self, llm: nn.Module, tokenizer, extractor: Extractor):
        self.llm, self.tokenizer, self.extractor = llm, tokenizer, extractor
        start = shared_start(tokenizer)
        self.start, self.prefix = len(start), prefix_cache(llm, start)

    def prompts(self, rows: Sequence[Row]) -> list[Tensor]:
        """Input embeddings [T_i, d] of each row's prompt after the cached start."""
        audio = self._embedded(rows, "A")
        video = self._embedded(rows, "V")
        text = self.extractor.text_embeddings()
        return [
            embed(self.llm, self._pieces(row, audio.get(i), video.get(i), text))[self.start :]
            for i, row in enumerate(rows)
        ]

    def tokens(self, row: Row) -> int:
        """Positions the LLM computes for a row in training."""
        slot = torch.zeros(self.extractor.shape.queries, 1)
        parts = row.setting.split("+")
        pieces = self._pieces(row, slot if "A" in parts else None, slot if "V" in parts else None, slot)
        return sum(len(p) for p in pieces) - self.start + len(self._answer(row))

    def loss(self, rows: Sequence[Row], batch: Sequence[Row]) -> tuple[Tensor, dict[str, float]]:
        """The rows' share of the token mean of the batch's answers' negative log-likelihood."""
        answers = [self._answer(row) for row in rows]
        log_probs, _ = reply_log_probs(self.llm, self.prompts(rows), answers, self.prefix)
        return -log_probs.sum() / sum(len(self._answer(row)) for row in batch), {}

    @torch.no_grad()
    def scores(self, rows: Sequence[Row], batch: int) -> Tensor:
        """Summed log-likelihoods fp32 [len(rows), 7] of the answers, in the order of EMOTIONS."""
        parts = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        found = Processes().dealt(parts, self._scores)
        return torch.tensor([scores for part in found for scores in part])

    def _scores(self, rows: Sequence[Row]) -> list[list[float]]:
        return emotion_scores(self.llm, self.tokenizer, self.prompts(rows), self.prefix).tolist()

    def measured(self, rows: Sequence[Row], batch: int) -> tuple[dict[str, float], list[float]]:
        """Loss as in training and the accuracy of the read-off; and nats per token of each row's answer."""
        scores, truth = self.scores(rows, batch), truth_of(rows)
        own = scores.gather(1, truth[:, None])[:, 0]
        sizes = [len(self._answer(row)) for row in rows]
        accuracy = (scores.argmax(1) == truth).float().mean().item()
        losses = [-score / size for score, size in zip(own.tolist(), sizes, strict=True)]
        return {"loss": -own.sum().item() / sum(sizes), "accuracy": accuracy}, losses

    def row_losses(self, rows: Sequence[Row], batch: int) -> list[float]:
        """Nats per token of each row's answer."""
        return self.measured(rows, batch)[1] if rows else []

    def _embedded(self, rows: Sequence[Row], part: str) -> dict[int, Tensor]:
        """Embeddings [queries, d] of one modality, by the number of the row that shows it."""
        shown = [i for i, row in enumerate(rows) if part in row.setting.split("+")]
        if not shown:
            return {}
        if part == "A":
            states = self.extractor.audio_embeddings([in_memory(rows[i].example.audio) for i in shown])
        else:
            states = self.extractor.video_embeddings([in_memory(rows[i].example.video) for i in shown])
        return dict(zip(shown, states, strict=True))

    def _pieces(self, row: Row, audio: Tensor | None, video: Tensor | None, text: Tensor) -> list[Tensor]:
        sentence = row.example.sentence if "T" in row.setting.split("+") else None
        return emotion_pieces(self.tokenizer, audio, video, sentence, text if row.setting == "T" else None)

    def _answer(self, row: Row) -> Tensor:
        return reply_ids(self.tokenizer, EMOTION_WORDS[row.example.emotion])


def drawn_rows(
    examples: Sequence[EmotionExample], settings: ExtractorSettings, epochs: int | None = None
) -> list[Row]:
    """Each example once an epoch, in an input setting drawn from seed, epoch and key."""
    rows = []
    for epoch in range(epochs or settings.training.epochs):
        for example in examples:
            draw = random.Random(draw_number(settings.training.seed, "extractor.inputs", epoch, example.key))
            family = SPOKEN if draw.random() < settings.text_share else SILENT
            rows.append(Row(example, draw.choice(possible(example, family))))
    return rows


def possible(example: EmotionExample, family: Sequence[str]) -> list[str]:
    """The input settings of a family for which the example has the modalities."""
    absent = {name for name, value in (("A", example.audio), ("V", example.video)) if value is None}
    return [setting for setting in family if not absent & set(setting.split("+"))]


def rows_with_other_clips(rows: Sequence[Row]) -> list[Row | None]:
    """Each row with the clip of another dialogue or actor that has the same modalities, as like in length as can be.

    Of its own dialogue where there is no other; None where the row shows no clip, or there is no other clip.
    """
    examples = [row.example for row in rows]
    has = [(row.example.audio is not None, row.example.video is not None) for row in rows]
    # Of one setting, so that a clip is given the same other one in all of them.
    kinds = [
        None if row.setting == "T" else (row.setting, *kind) for row, kind in zip(rows, has, strict=True)
    ]
    sizes = [sum(len(f) for f in (e.audio, e.video) if f is not None) for e in examples]
    fields = ("audio", "video")
    given = with_others(examples, fields, kinds, sizes)
    near = with_others(examples, fields, kinds, sizes, apart="key")
    given = [far or within for far, within in zip(given, near, strict=True)]
    return [None if e is None else Row(e, row.setting) for e, row in zip(given, rows, strict=True)]


def truth_of(rows: Sequence[Row]) -> Tensor:
    """Place of each row's emotion in EMOTIONS, int [n]."""
    return torch.tensor([EMOTIONS.index(row.example.emotion) for row in rows])
