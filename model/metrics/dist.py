"""Dist-n: the share of distinct words, or of distinct runs of n words (Li et al. 2016).

Knows nothing of systems or datasets. A word is a run of letters or digits, with apostrophes inside it ("don't" is
one word), lower-cased; punctuation and symbols are no words.
"""

import re
from collections.abc import Sequence

import numpy as np

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """The words of `text` in order, lower-cased, with typographic apostrophes made plain."""
    return [word.replace("’", "'") for word in WORD.findall(text.lower())]


def dist_per_reply(replies: Sequence[str], n: int = 1) -> np.ndarray:
    """Distinct runs of n words over all of them in each reply, float64 [n]; a reply without one has 0."""
    return np.array([_share(_runs(reply, n)) for reply in replies])


def dist_corpus(replies: Sequence[str], n: int = 1) -> float:
    """Distinct runs of n words over those of all replies together, none across two replies; 0 where there is none."""
    return _share([run for reply in replies for run in _runs(reply, n)])


def _runs(reply: str, n: int) -> list[tuple[str, ...]]:
    found = words(reply)
    return [tuple(found[at : at + n]) for at in range(len(found) - n + 1)]


def _share(runs: list[tuple[str, ...]]) -> float:
    return len(set(runs)) / len(runs) if runs else 0.0
