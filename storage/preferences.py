"""Preference pairs as other programs read them: Parquet in the conversational form of preference trainers.

Knows the columns, their types and the bytes; nothing of the store or of how pairs are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import InputError
from storage.files import shown
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

MOST_BYTES = 256 << 20
"""Of a file, and of what it unpacks to."""
MOST_ROWS = 200_000
_BATCH = 64
"""Rows unpacked at once: a text may stand in a file once and in every row."""


def write_preferences(rows: Iterable[dict]) -> bytes:
    """Parquet bytes of the rows in the order of their keys; the same rows in any order give the same bytes."""
    rows = sorted(rows, key=itemgetter(*KEY_COLUMNS))
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=PREFERENCES)
    pq.write_table(table, sink, compression="zstd", compression_level=3, version="2.6")
    return sink.getvalue().to_pybytes()


def read_preferences(path: Path) -> Iterator[dict]:
    """The rows of a file that `write_preferences` may have written, in their order; each value may still be null.

    InputError in one line: no file, no Parquet, other columns, or more of it than any study gives.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _no_pairs(path, f"it is larger than {MOST_BYTES >> 20} MiB")
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow)
            groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
            if file.metadata.num_rows > MOST_ROWS or sum(g.total_byte_size for g in groups) > MOST_BYTES:
                raise _no_pairs(path, f"it holds more than {MOST_ROWS:,} rows or {MOST_BYTES >> 20} MiB")
            for batch in file.iter_batches(_BATCH, use_threads=False):
                yield from batch.to_pylist()
    except InputError:
        raise
    except OSError as error:
        raise _no_pairs(path, error.strerror or str(error)) from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _no_pairs(path, str(error).splitlines()[0]) from None


def _check_columns(path: Path, found: pa.Schema) -> None:
    there = dict(zip(found.names, found.types, strict=True))
    wanted = dict(zip(PREFERENCES.names, PREFERENCES.types, strict=True))
    lacks, more = [name for name in wanted if name not in there], [n for n in there if n not in wanted]
    other = [f"{n} is {there[n]} and not {kind}" for n, kind in wanted.items() if there.get(n, kind) != kind]
    wrong = [f"it lacks {', '.join(lacks)}"] * bool(lacks) + [f"it has {', '.join(more)} too"] * bool(more)
    if wrong + other or len(found.names) != len(wanted):
        raise _no_pairs(path, "; ".join(wrong + other) or "a column stands there twice")


def _no_pairs(path: Path, why: str) -> InputError:
    return InputError(
        f"{shown(path)}: cannot be read as people's pairs ({shown(why)}): give what `empamba study export` wrote"
    )
