"""Features of a clip, in memory or in a file until a batch needs them. Knows nothing of files.

A corpus has hundreds of gigabytes of features, and a batch a few megabytes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


class Stored:
    """Features [T, d] that lie somewhere; `read` brings them, anew at each call. Their shape is known beforehand."""

    def __init__(self, shape: tuple[int, int], read: Callable[[], Tensor]):
        self.shape, self.read = shape, read

    def __len__(self) -> int:
        return self.shape[0]


Features = Tensor | Stored


def in_memory(features: Features) -> Tensor:
    """The features themselves [T, d]."""
    return features.read() if isinstance(features, Stored) else features
