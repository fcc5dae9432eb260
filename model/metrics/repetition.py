"""Does a reply repeat itself? What training on preferences is known to do to replies, so it is counted.

Knows nothing of systems or datasets.
"""

from collections.abc import Sequence

import numpy as np

from model.metrics.dist import words

RUN = 3
"""Words in a row that come back in a reply that repeats itself."""
ROUND, TIMES = 4, 3
"""A reply loops where one to so many words stand so many times one after the other."""


def repeats(found: Sequence[str]) -> bool:
    """Whether three words in a row come back."""
    runs = [tuple(found[at : at + RUN]) for at in range(len(found) - RUN + 1)]
    return len(set(runs)) < len(runs)


def loops(found: Sequence[str]) -> bool:
    """Whether one to four words stand three times in a row."""
    return any(
        list(found[at : at + size]) * TIMES == list(found[at : at + size * TIMES])
        for size in range(1, ROUND + 1)
        for at in range(len(found) - size * TIMES + 1)
    )


def repeating(replies: Sequence[str]) -> np.ndarray:
    """1 of a reply that repeats itself, else 0, float64 [n]."""
    return np.array([float(repeats(words(reply))) for reply in replies])


def looping(replies: Sequence[str]) -> np.ndarray:
    """1 of a reply that loops, else 0, float64 [n]."""
    return np.array([float(loops(words(reply))) for reply in replies])
