"""Random batches of rows of similar length, and their padding.

Knows nothing of texts or models.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

POOL = 50
"""Batches whose rows are drawn together, then sorted by length among themselves."""


def shuffled_batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices of rows in random order, but those of a batch of like length: little is padded. Uses torch's random
    state."""
    order = torch.randperm(len(lengths)).tolist()
    batches = []
    for start in range(0, len(order), POOL * size):
        pool = sorted(order[start : start + POOL * size], key=lambda index: lengths[index])
        batches += [pool[at : at + size] for at in range(0, len(pool), size)]
    for place in torch.randperm(len(batches)).tolist():
        yield batches[place]


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids int64 [B, L] filled up on the right with `pad_id`, and the mask bool [B, L] of real ones."""
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], dtype=torch.int64)
    return ids, torch.arange(width) < lengths[:, None]
