"""Replies beside their figures as other programs read them: one Parquet table, a row for each system and exchange.

Knows the columns, their types and the bytes; not which figures there are, or how one is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter

import pyarrow as pa
import pyarrow.parquet as pq

from storage.tables import KEY_COLUMNS

_TEXT = pa.string()
_COLUMNS = (
    pa.field("system", _TEXT, nullable=False),
    pa.field("title", _TEXT, nullable=False),
    pa.field("dataset", _TEXT, nullable=False),
    pa.field("split", _TEXT, nullable=False),
    pa.field("dialogue_id", _TEXT, nullable=False),
    pa.field("turn", pa.int32(), nullable=False),
    pa.field("sentence", _TEXT, nullable=False),
    pa.field("reference", _TEXT, nullable=False),
    pa.field("reply", _TEXT, nullable=False),
    pa.field("sentence_emotion", _TEXT),
    pa.field("reference_emotion", _TEXT),
    pa.field("finish_reason", _TEXT),
    pa.field("prompt_tokens", pa.int64()),
    pa.field("reply_tokens", pa.int64()),
)
COLUMNS = {
    "system, title": "who replied: a rung, another system (system-NAME), or a floor (floor-NAME)",
    "dataset, split, dialogue_id, turn": "key of the sentence in the source corpus",
    "sentence, reference, reply": "what was said, the true reply, and the system's",
    "sentence_emotion, reference_emotion": "the corpus' labels; null where it has none",
    "finish_reason": "why the reply ended; null where it is not known",
    "prompt_tokens, reply_tokens": "as the system counted them; null where it did not",
}
"""Columns -> what they hold, before those of the figures, which are null where a reply has none."""


def write_measured(rows: Iterable[dict], figures: Sequence[str]) -> bytes:
    """Parquet bytes of the rows by system and key, with a column for each figure; the same rows, the same bytes."""
    schema = pa.schema([*_COLUMNS, *(pa.field(name, pa.float64()) for name in figures)])
    ordered = sorted(rows, key=itemgetter("system", *KEY_COLUMNS))
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(ordered, schema=schema)
    pq.write_table(table, sink, compression="zstd", compression_level=3, version="2.6")
    return sink.getvalue().to_pybytes()
