"""The pipeline's tables by name: schema version and key columns, in the order in which stages make them.

Knows nothing of the other columns or of Parquet, so that planning need not import it.
"""

from __future__ import annotations

VERSIONS = {
    "utterances": 2,
    "exchanges": 1,
    "rejects": 1,
    "candidates": 2,
    "scores": 2,
    "pairs": 1,
    "features": 1,
    "replies": 1,
}

KEY_COLUMNS = ("dataset", "split", "dialogue_id", "turn")
_EXTRA_KEY = {"candidates": ("emotion",), "scores": ("emotion",), "replies": ("rung",)}


def key_columns(table: str) -> tuple[str, ...]:
    """The columns that tell one row of a table from another (rejects have no such key)."""
    return KEY_COLUMNS + _EXTRA_KEY.get(table, ())
