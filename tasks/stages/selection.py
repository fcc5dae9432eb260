"""Which exchanges, or clips, are taken where not all are: a seeded few, even over the datasets, that hardly move as data grow.

Knows nothing of shards or of what the exchanges are taken for.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from storage.draws import draw_number


class Keyed(Protocol):
    """An exchange, or a clip."""

    @property
    def dataset(self) -> str: ...

    @property
    def key(self) -> tuple | str: ...


K = TypeVar("K", bound=Keyed)


def smallest_hashed(exchanges: list[K], count: int | None, seed: int, draw: str) -> list[K]:
    """The `count` exchanges of smallest hash under the seed and the draw's name: one dialogue more moves a few."""
    if count is None or count >= len(exchanges):
        return exchanges
    return sorted(exchanges, key=lambda e: (draw_number(seed, draw, *_parts(e.key)), e.key))[:count]


def _parts(key: tuple | str) -> tuple:
    """Of an exchange's key its parts; a clip's is one word."""
    return key if isinstance(key, tuple) else (key,)


def spread(exchanges: list[K], count: int | None, seed: int, draw: str) -> list[K]:
    """`smallest_hashed` of each dataset, the count shared out evenly; what one cannot fill the others take."""
    if count is None:
        return exchanges
    by_dataset: dict[str, list[K]] = {}
    for exchange in exchanges:
        by_dataset.setdefault(exchange.dataset, []).append(exchange)
    chosen: list[K] = []
    left = count
    for place_, inside in enumerate(sorted(by_dataset.values(), key=lambda e: (len(e), e[0].dataset))):
        share = left // (len(by_dataset) - place_)
        taken = smallest_hashed(inside, share, seed, draw)
        left -= len(taken)
        chosen += taken
    return chosen
