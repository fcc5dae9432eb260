"""The figures of measured systems, as the metrics' catalogue declares them: page, terminal, JSON and CSV loop over it.

Knows nothing of HTML, terminals or stores.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence

from model.metrics.catalogue import METRICS as FIGURES
from model.metrics.catalogue import Metric as Figure

__all__ = [
    "COLUMNS",
    "FIGURES",
    "FURTHER",
    "MAIN",
    "OF_TEXTS",
    "STEPS",
    "Figure",
    "as_csv",
    "as_dicts",
    "csv_link",
    "csv_of",
    "figure_rows",
    "verdict_rows",
]

MAIN = tuple(figure for figure in FIGURES if figure.paper)
FURTHER = tuple(figure for figure in FIGURES if not figure.paper)
STEPS = tuple(figure for figure in FIGURES if figure.steps)
OF_TEXTS = tuple(figure for figure in STEPS if figure.scorer)
"""Floors find nothing likely: only what scores texts is compared with theirs."""
COLUMNS = (
    "rung", "system", "dataset", "split", "n", "dialogues", "left_out", "figure", "title", "value", "low", "high", "better", "source",
)  # fmt: skip
"""Of the CSV: a line for each figure of each system. left_out: of the n replies, those that the figure is not of."""


def as_dicts() -> list[dict]:
    """The table itself, for JSON."""
    return [figure.facts() for figure in FIGURES]


def figure_rows(systems: list[dict]) -> list[dict]:
    """COLUMNS of every figure that a system has; an interval that was not taken is None."""
    rows = []
    for system in systems:
        whose = {name: system.get(name) for name in COLUMNS[:6]}
        for figure in (f for f in FIGURES if system.get(f.key) is not None):
            low, high = system.get(f"{figure.key}_ci") or (None, None)
            left_out = system.get(f"{figure.key}_left_out", 0)
            measured = {
                "left_out": left_out,
                "figure": figure.key,
                "title": figure.title,
                "value": system[figure.key],
            }
            rows.append(
                whose
                | measured
                | {"low": low, "high": high, "better": figure.better, "source": figure.source}
            )
    return rows


def as_csv(systems: list[dict]) -> bytes:
    """`figure_rows` as CSV with a header (RFC 4180); figures are not rounded, None is empty."""
    return csv_of(figure_rows(systems), COLUMNS)


def verdict_rows(rows: list[dict]) -> list[dict]:
    """Verdicts of steps or floors, a line for each figure: rung, against, figure, grade, mean, low, high, n …"""
    return [
        {"rung": row["rung"], "against": row["against"], "figure": name}
        | {column: value for column, value in found.items() if column != "seeds"}
        | {f"seeds_{column}": (found.get("seeds") or {}).get(column) for column in ("mean", "sd")}
        for row in rows
        for name, found in row.items()
        if isinstance(found, dict) and "grade" in found
    ]


def csv_of(rows: list[dict], columns: Sequence[str] | None = None) -> bytes:
    """Rows as CSV with a header (RFC 4180); columns: all that any row has, where none are named."""
    text = io.StringIO()
    names = columns or list(dict.fromkeys(name for row in rows for name in row))
    table = csv.DictWriter(text, names, extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode("utf-8")


def csv_link(rows: list[dict]) -> str:
    """The rows inside a link, so that a page on its own holds its data."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(csv_of(rows)).decode("ascii")
