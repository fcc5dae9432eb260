"""Preference pairs as other programs read them: Parquet in the conversational form of preference trainers.

Knows the columns, their types and the bytes; nothing of the store or of how pairs are made.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter

import pyarrow as pa
import pyarrow.parquet as pq

from storage.tables import KEY_COLUMNS

_TEXT = pa.string()
_MESSAGES = pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))

PREFERENCES = pa.schema(
    [
        pa.field("prompt", _MESSAGES, nullable=False),
        pa.field("chosen", _MESSAGES, nullable=False),
        pa.field("rejected", _MESSAGES, nullable=False),
        pa.field("reply", _TEXT, nullable=False),
        pa.field("history", pa.list_(_TEXT), nullable=False),
        pa.field("dataset", _TEXT, nullable=False),
        pa.field("split", _TEXT, nullable=False),
        pa.field("dialogue_id", _TEXT, nullable=False),
        pa.field("turn", pa.int32(), nullable=False),
        pa.field("sentence_emotion", _TEXT),
        pa.field("chosen_emotion", _TEXT),
        pa.field("rejected_emotion", _TEXT),
        pa.field("cosine", pa.float64()),
        pa.field("candidate_prompt", _TEXT),
        pa.field("engine", _TEXT, nullable=False),
        pa.field("weights", _TEXT),
        pa.field("settings", _TEXT),
        pa.field("seed", pa.int64()),
        pa.field("scorer", _TEXT),
    ]
)
"""prompt, chosen, rejected, then where each row comes from; what only a scorer or a sampled LLM has is null in people's."""

COLUMNS = {
    "prompt": "one user message: the sentence",
    "chosen": "one assistant message: the true reply, or the LLM's sample most like it in emotion",
    "rejected": "one assistant message: the counter-emotional reply, written by the LLM",
    "reply": "the true reply",
    "history": "the turns before the sentence, role-tagged, oldest first",
    "dataset, split, dialogue_id, turn": "key of the sentence in the source corpus",
    "sentence_emotion, chosen_emotion": "the corpus' labels; null where it has none",
    "rejected_emotion": "emotion the rejected reply was asked for; null where the finetuned LLM was sampled",
    "cosine": "emotional similarity of the rejected and the true reply by the scorer",
    "candidate_prompt, engine, weights, settings, seed": "how the rejected reply was made",
    "scorer": "identity of the emotion scorer",
}
"""Columns -> what they hold, for the data card."""


def write_preferences(rows: Iterable[dict]) -> bytes:
    """Parquet bytes of the rows in the order of their keys; the same rows in any order give the same bytes."""
    rows = sorted(rows, key=itemgetter(*KEY_COLUMNS))
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=PREFERENCES)
    pq.write_table(table, sink, compression="zstd", compression_level=3, version="2.6")
    return sink.getvalue().to_pybytes()
