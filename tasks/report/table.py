"""A table as columns and rows of plain text, for terminals. Knows nothing of what stands in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """What is printed together. lines: sentences below it."""

    title: str
    columns: tuple[str, ...]
    rows: list[dict]
    lines: tuple[str, ...] = ()
