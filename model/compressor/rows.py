"""Utterances and dialogues as rows that the compressor is trained and measured on.

Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from model.compressor.compressor import MambaCompressor
from model.compressor.reconstruction import Reconstruction
from model.compressor.settings import CompressorSettings
from model.spoken import Spoken


@dataclass(frozen=True)
class Row:
    """Utterances of one sequence, the ids the compressor reads and the ids the LLM is to give back."""

    utterances: tuple[Spoken, ...]
    sources: tuple[Tensor, ...]
    target: Tensor
    dialogue: Hashable
    """What the row is of: rows of one dialogue are alike."""

    @property
    def text(self) -> str:
        """What the LLM is to give back, a line an utterance."""
        return "\n".join(utterance.text for utterance in self.utterances)


def windows(sizes: Sequence[int], most_rows: int, most_tokens: int) -> list[range]:
    """Consecutive ranges over utterances of `sizes` tokens, each within both limits or one utterance long."""
    found, start, tokens = [], 0, 0
    for i, size in enumerate(sizes):
        if i > start and (i - start == most_rows or tokens + size > most_tokens):
            found.append(range(start, i))
            start, tokens = i, 0
        tokens += size
    return [*found, range(start, len(sizes))] if sizes else found


def rows_of(
    dialogues: Sequence[Sequence[Spoken]],
    compressor: MambaCompressor,
    task: Reconstruction,
    settings: CompressorSettings,
    longest: float,
    keys: Sequence[Hashable] | None = None,
    utterances: int | None = None,
) -> tuple[list[Row], dict[str, int]]:
    """Rows to train on, and how many utterances were left out because they are empty or too long.

    keys: what tells each of `dialogues` from the others; by default its number. utterances: a row's most, if not the
    settings'.
    """
    most = utterances or settings.max_dialogue_utterances
    rows, left_out = [], {"empty": 0, "too_long": 0}
    for key, dialogue in zip(range(len(dialogues)) if keys is None else keys, dialogues, strict=True):
        kept = []
        for utterance in dialogue:
            if not utterance.text.strip():
                left_out["empty"] += 1
                continue
            ids = compressor.ids(utterance.text)
            if len(ids) > longest:
                left_out["too_long"] += 1
            else:
                kept.append((utterance, ids))
        sizes = [task.text_tokens(utterance.text) + 1 for utterance, _ in kept]
        for window in windows(sizes, most, settings.max_dialogue_tokens):
            said, ids = zip(*(kept[i] for i in window), strict=True)
            target = task.target([utterance.text for utterance in said])
            rows.append(Row(said, ids, target, key))
    return rows, left_out


def memories_of(compressor: MambaCompressor, rows: Sequence[Row]) -> list[Tensor]:
    """Each row's memories, [memories, width of the LLM]."""
    roles = [[utterance.role for utterance in row.utterances] for row in rows]
    return compressor.memories([row.sources for row in rows], roles)
