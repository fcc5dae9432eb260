"""Dist-1: the share of distinct words (Li et al. 2016).

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


def dist1_per_reply(replies: Sequence[str]) -> np.ndarray:
    """Distinct words over words of each reply, float64 [n]; a reply without words has 0. Averaged for the report."""
    counted = [words(reply) for reply in replies]
    return np.array([len(set(found)) / len(found) if found else 0.0 for found in counted])


def dist1_corpus(replies: Sequence[str]) -> float:
    """Distinct words over words of all replies together; 0 when there is no word."""
    found = [word for reply in replies for word in words(reply)]
    return len(set(found)) / len(found) if found else 0.0
