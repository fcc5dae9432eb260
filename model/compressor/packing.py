"""Dialogues packed into rows: u1 <MEM> u2 <MEM> …, or a <MEM> after every few tokens of an utterance too.

Knows nothing of embeddings or of the Mamba.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def spans(tokens: int, span: int | None) -> list[int]:
    """How many tokens each memory of an utterance of `tokens` covers: `span` each, and the last what is left.

    None: one memory for all of them.
    """
    if span is None or tokens <= span:
        return [tokens]
    full, rest = divmod(tokens, span)
    return [span] * full + ([rest] if rest else [])


@dataclass(frozen=True)
class Packed:
    """N tokens of dialogues, each of them covered by one of M memories.

    ids [N]: the tokens, dialogue after dialogue. covered: tokens of each memory [M]. of_utterance: memories of each
    utterance; of_dialogue: of each dialogue. owner [N]: the number of the memory that covers a token; position [N]: the
    token's place among those. row [M], place [M]: where each memory's <MEM> stands.
    """

    ids: Tensor
    covered: list[int]
    of_utterance: list[int]
    of_dialogue: list[int]
    owner: Tensor
    position: Tensor
    row: Tensor
    place: Tensor

    def laid_out(self, inputs: Tensor, mem: Tensor) -> Tensor:
        """Token states `inputs` [N, hidden] and <MEM>'s `mem` [hidden] -> rows [dialogues, longest, hidden].

        Rows are padded with zeros on the right, where nothing before them can see it.
        """
        parts, first, rows = inputs.split(self.covered), 0, []
        for count in self.of_dialogue:
            pieces = [piece for part in parts[first : first + count] for piece in (part, mem[None])]
            rows.append(torch.cat(pieces) if pieces else inputs.new_zeros(1, inputs.shape[1]))
            first += count
        return pad_sequence(rows, batch_first=True)


def pack(dialogues: Sequence[Sequence[Tensor]], span: int | None, device: torch.device) -> Packed:
    """Pack the token ids [n] of each dialogue's utterances (n >= 1); at least one dialogue has an utterance."""
    covered, of_utterance, of_dialogue, rows, places = [], [], [], [], []
    for row, utterances in enumerate(dialogues):
        column, before = 0, len(covered)
        for ids in utterances:
            sizes = spans(len(ids), span)
            covered += sizes
            of_utterance.append(len(sizes))
            for size in sizes:
                rows.append(row)
                places.append(column + size)
                column += size + 1
        of_dialogue.append(len(covered) - before)
    sizes = torch.tensor(covered)
    return Packed(
        torch.cat([ids for utterances in dialogues for ids in utterances]).to(device),
        covered,
        of_utterance,
        of_dialogue,
        torch.repeat_interleave(torch.arange(len(covered)), sizes).to(device),
        torch.cat([torch.arange(size) for size in covered]).to(device),
        torch.tensor(rows, device=device),
        torch.tensor(places, device=device),
    )
