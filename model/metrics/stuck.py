"""Whether a reply says nothing, or goes round in circles: how a model that was trained too far sounds.

Judged by its words alone (model/metrics/dist.py). Knows nothing of models or of what a reply should say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from model.metrics.dist import words

ROUNDS = 3
"""Times that words must come to count as a loop: people say things twice."""


def is_stuck(reply: str) -> bool:
    """Whether a reply is empty, without a word, or looped."""
    return not words(reply) or is_looped(reply)


def is_looped(reply: str) -> bool:
    """Whether two or three words are said three times on end; or some three come three times in a reply of nine words
    and more of whose runs of three words half stood there before.

    By hand: "no no no no no no" is "no no" three times on end, "I know I know I know" likewise; five times "no" is not.
    Of "so sorry for your loss" said three times, the 13 runs of three words are 5 different ones, "so sorry for" comes
    three times, and 8 of the 13 stood there before: looped. Said twice it is not: 8 runs, of which 3 stood there before.
    """
    said = words(reply)
    if any(_on_end(said, size) for size in (2, 3)):
        return True
    runs = Counter(zip(said, said[1:], said[2:], strict=False))
    total = sum(runs.values())
    return len(said) >= 3 * ROUNDS and max(runs.values()) >= ROUNDS and 2 * (total - len(runs)) >= total


def stuck_share(replies: Sequence[str]) -> float:
    """Share of replies that are stuck; 0 of none."""
    return sum(map(is_stuck, replies)) / len(replies) if replies else 0.0


def _on_end(said: Sequence[str], size: int) -> bool:
    """Whether some `size` words are said `ROUNDS` times, one right after the other."""
    # A word that equals the one `size` before it, so often in a row, makes as many rounds as the first.
    same = 0
    for at in range(size, len(said)):
        same = same + 1 if said[at] == said[at - size] else 0
        if same >= (ROUNDS - 1) * size:
            return True
    return False
