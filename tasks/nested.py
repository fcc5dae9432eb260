"""Values that lie in nested groups, each with the names on the way to it."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel


def leaves(
    value: object, group: type[dict] | type[BaseModel], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """(names, value) of all that is in groups within groups, in their order. group: dict, or a kind of settings."""
    if not isinstance(value, group):
        yield path, value
        return
    for name, part in value.items() if isinstance(value, dict) else value:
        yield from leaves(part, group, (*path, name))
