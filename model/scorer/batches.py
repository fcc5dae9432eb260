"""Batches of rows of similar length, and their padding.

Knows nothing of texts or models.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def length_sorted_batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices of rows, longest first, equal lengths in their order, `size` a batch."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids int64 [B, L] filled up on the right with `pad_id`, and the mask bool [B, L] of real ones."""
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], dtype=torch.int64)
    return ids, torch.arange(width) < lengths[:, None]
