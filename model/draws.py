"""Which rows are taken: a seeded draw, by a hash of the seed, the draw's own name and what is drawn from; or evenly apart.

The name is the draw's salt: two draws under one seed have nothing to do with one another. storage/draws.py is the same
function; neither package imports the other.
"""

from __future__ import annotations

import hashlib


def draw_number(seed: int, draw: str, *parts: object) -> int:
    """A number of 64 bits that depends on the seed, the draw's name and the parts alone."""
    text = "\0".join(map(str, (seed, draw, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def evenly_apart(total: int, count: int) -> list[int]:
    """Up to `count` of `total` row numbers, evenly apart: rows stand by dataset and dialogue, and all should have some."""
    count = min(count, total)
    return [i * total // count for i in range(count)]
