"""The pipeline's tables by name: schema version, key columns and views, in the order in which stages make them.

Knows nothing of Parquet, so that planning need not import it.
"""

from __future__ import annotations

VERSIONS = {
    "utterances": 2,
    "exchanges": 1,
    "rejects": 1,
    "candidates": 3,
    "scores": 3,
    "pairs": 2,
    "features": 1,
    "replies": 2,
}

KEY_COLUMNS = ("dataset", "split", "dialogue_id", "turn")
_EXTRA_KEY = {"candidates": ("emotion", "sample"), "scores": ("emotion", "sample"), "replies": ("rung",)}


def key_columns(table: str) -> tuple[str, ...]:
    """The columns that tell one row of a table from another (rejects have no such key). Some may be null."""
    return KEY_COLUMNS + _EXTRA_KEY.get(table, ())


VIEWS: dict[str, dict[str, tuple[str, ...]]] = {
    "utterances": {
        "words": (*KEY_COLUMNS, "speaker", "text"),
        "labels": (*KEY_COLUMNS, "speaker", "text", "emotion"),
    },
    "exchanges": {"words": (*KEY_COLUMNS, "sentence", "reply")},
}
"""Table -> view -> columns. A stage that is given a view of a shard reads these columns and is stale by them alone:
a replaced clip retrains no model of text."""
