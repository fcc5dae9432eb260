"""Batches of rows of like length: little is padded. Knows nothing of what the rows are."""

from collections.abc import Sequence


def length_sorted_batches(lengths: Sequence[int], size: int, longest_first: bool = False) -> list[list[int]]:
    """Indices of all rows, `size` a batch, sorted by length; those of equal length in their order."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i] if longest_first else lengths[i])
    return [order[start : start + size] for start in range(0, len(order), size)]
