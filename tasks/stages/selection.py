"""Which exchanges are taken where not all are: a seeded few, even over the datasets, that hardly move as data grow.

Knows nothing of shards or of what the exchanges are taken for.
"""

from __future__ import annotations

import hashlib

from storage.exchanges import Exchange


def smallest_hashed(exchanges: list[Exchange], count: int | None, seed: int) -> list[Exchange]:
    """The `count` exchanges of smallest seeded hash: one dialogue more moves at most a few."""
    if count is None or count >= len(exchanges):
        return exchanges
    return sorted(exchanges, key=lambda e: _hash(e, seed))[:count]


def _hash(exchange: Exchange, seed: int) -> bytes:
    return hashlib.blake2b(repr((seed, *exchange.key)).encode(), digest_size=16).digest()


def spread(exchanges: list[Exchange], count: int | None, seed: int) -> list[Exchange]:
    """`smallest_hashed` of each dataset, the count shared out evenly; what one cannot fill the others take."""
    if count is None:
        return exchanges
    by_dataset: dict[str, list[Exchange]] = {}
    for exchange in exchanges:
        by_dataset.setdefault(exchange.dataset, []).append(exchange)
    chosen, left = [], count
    for place_, inside in enumerate(sorted(by_dataset.values(), key=lambda e: (len(e), e[0].dataset))):
        share = left // (len(by_dataset) - place_)
        taken = smallest_hashed(inside, share, seed)
        left -= len(taken)
        chosen += taken
    return chosen
