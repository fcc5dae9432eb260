"""Who judges which conversations, and in which order the systems' replies stand there: balanced, blind, by seed.

Every conversation is judged equally often, give or take one. Of each block of as many conversations as there are systems,
each system stands once in every place, so that no place favours one. Knows nothing of what is judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from storage.draws import draw_number


def assigned(items: Sequence[str], places: int, each: int, seed: int) -> list[list[str]]:
    """For each of the places its `each` items, in the order in which they are shown.

    The least assigned so far come first, ties by seed: no item is then assigned two times more than another.
    """
    used: Counter[str] = Counter(dict.fromkeys(items, 0))
    found = []
    for place in range(places):
        ranked = sorted(items, key=lambda item: (used[item], draw_number(seed, "study.items", place, item)))
        chosen = ranked[:each]
        used.update(chosen)
        found.append(shuffled(chosen, seed, "study.order", place))
    return found


def orders(systems: Sequence[str], items: int, place: int, seed: int) -> list[list[str]]:
    """The systems in the order in which their replies stand, for each of a place's items.

    Blocks of Latin squares: a square's rows and columns and the systems in it are shuffled anew for each block.
    """
    size, found = len(systems), []
    for block in range(-(-items // size)):
        names = shuffled(systems, seed, "study.systems", place, block)
        rows = shuffled(range(size), seed, "study.rows", place, block)
        columns = shuffled(range(size), seed, "study.columns", place, block)
        found += [[names[(row + column) % size] for column in columns] for row in rows]
    return found[:items]


def shuffled(values: Sequence, seed: int, draw: str, *parts: object) -> list:
    """The values in an order that depends on the seed, the draw's name and the parts alone."""
    return sorted(values, key=lambda value: draw_number(seed, draw, *parts, value))
