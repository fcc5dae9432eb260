"""What goes to Prefect stays small, however much has changed: lines, tables and pages by size, with a count of the rest.

An orchestrator's database and a browser hold every one of them, for every run. Knows nothing of stages or Prefect.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

MOST_BYTES = 60_000
"""Of an artifact's data: 64 KiB with what its key and description take."""
LINE, LINES = 300, 20
"""Characters of a line, and lines of a list."""


def short(text: str, most: int = LINE) -> str:
    """The text, cut where it is longer."""
    return text if len(text) <= most else text[: most - 1] + "…"


def first_lines(lines: Sequence[str], most: int = LINES) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - most
    return [short(line) for line in lines[:most]] + ([f"… and {more:,} more"] if more > 0 else [])


def cell(text: object) -> str:
    """A text in a cell of a Markdown table."""
    return short(str(text)).replace("|", "\\|").replace("\n", " ")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table; none without rows."""
    if not rows:
        return []
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(map(cell, line)) + " |" for line in lines] + [""]


def left_out(count: int, what: str) -> list[str]:
    """Lines that say how many of these are not shown; none where all are. what: in the plural, and where they are."""
    return [f"… and {count:,} more {what}", ""] if count > 0 else []


def link(key: str, text: str) -> str:
    """To the latest artifact of that key: a path of Prefect's UI, whatever its address is."""
    return f"[{text}](/artifacts/key/{key})"


def page(lines: Sequence[str]) -> str:
    """Lines as Markdown, as many as fit, and how many do not."""
    left, kept = MOST_BYTES, list(lines)
    for number, line in enumerate(lines):
        left -= len(json.dumps(line))  # as it is sent: a character beyond ASCII takes six
        if left < 0:
            kept = [*lines[:number], "", f"… and {len(lines) - number:,} lines more"]
            break
    return "\n".join(kept)


def parts(rows: Sequence[dict]) -> Iterator[list[dict]]:
    """The rows in tables that each fit; a row's texts are cut to a line."""
    part: list[dict] = []
    left = MOST_BYTES
    for row in rows:
        fitting = {name: short(value) if isinstance(value, str) else value for name, value in row.items()}
        size = len(json.dumps(fitting)) + 2
        if part and size > left:
            yield part
            part, left = [], MOST_BYTES
        part.append(fitting)
        left -= size
    if part:
        yield part
