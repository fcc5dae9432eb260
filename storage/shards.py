"""Shards: Parquet tables with declared schemas, written to the same bytes for the same rows.

Knows the columns of every table and how dialogues fall into buckets; nothing of where shards are kept, of
which stage is stale, or of what the columns mean to a model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.answers import Candidate, Pair, Reply
from storage.errors import InputError
from storage.exchanges import Exchange
from storage.tables import KEY_COLUMNS, VERSIONS, key_columns
from storage.utterance import Reject, Utterance

NAME_KEY, VERSION_KEY = b"empamba.table", b"empamba.version"
FEATURE_ROW_GROUP = 8  # few rows per group: a random row then costs about 2 ms
FEATURE_BLOBS = ("audio", "video")


class ShardError(InputError):
    """A table that cannot be written or read as asked: one line that says what and where."""


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_TEXT = pa.string()
_KEY = [
    _required("dataset", _TEXT),
    _required("split", _TEXT),
    _required("dialogue_id", _TEXT),
    _required("turn", pa.int32()),
]
_CANDIDATE = [
    *_KEY,
    _required("source", _TEXT),
    pa.field("emotion", _TEXT),
    _required("sample", pa.int32()),
    pa.field("prompt", _TEXT),
    _required("text", _TEXT),
    pa.field("finish_reason", _TEXT),
    _required("usable", pa.bool_()),
    pa.field("reason", _TEXT),
    _required("seed", pa.int64()),
    _required("engine", _TEXT),
    _required("weights", _TEXT),
    _required("settings", _TEXT),
]


def _schema(name: str, columns: Sequence[pa.Field]) -> pa.Schema:
    return pa.schema(columns, metadata={NAME_KEY: name.encode(), VERSION_KEY: str(VERSIONS[name]).encode()})


SCHEMAS: dict[str, pa.Schema] = {
    "utterances": _schema(
        "utterances",
        [
            *_KEY,
            _required("speaker", _TEXT),
            _required("text", _TEXT),
            pa.field("emotion", _TEXT),
            pa.field("emotion_raw", _TEXT),
            pa.field("video_path", _TEXT),
            pa.field("audio_path", _TEXT),
            pa.field("start", pa.float64()),
            pa.field("end", pa.float64()),
            pa.field("side", _TEXT),
            pa.field("seconds", pa.float64()),
            pa.field("media_digest", _TEXT),
        ],
    ),
    "exchanges": _schema(
        "exchanges",
        [
            *_KEY,
            _required("sentence", _TEXT),
            _required("reply", _TEXT),
            pa.field("sentence_emotion", _TEXT),
            pa.field("reply_emotion", _TEXT),
            _required("sentence_speaker", _TEXT),
            _required("reply_speaker", _TEXT),
            _required("selected", pa.bool_()),
        ],
    ),
    # A line that is no row has no turn, so here alone the turn may be null.
    "rejects": _schema(
        "rejects",
        [
            *_KEY[:3],
            pa.field("turn", pa.int32()),
            _required("stage", _TEXT),
            _required("reason", _TEXT),
            _required("detail", _TEXT),
        ],
    ),
    "candidates": _schema("candidates", _CANDIDATE),
    "scores": _schema("scores", [*_CANDIDATE, pa.field("cosine", pa.float64())]),
    "pairs": _schema(
        "pairs",
        [
            *_KEY,
            _required("sentence", _TEXT),
            _required("reply", _TEXT),
            _required("chosen", _TEXT),
            _required("rejected", _TEXT),
            pa.field("rejected_emotion", _TEXT),
            _required("cosine", pa.float64()),
            pa.field("chosen_cosine", pa.float64()),
        ],
    ),
    "features": _schema(
        "features",
        [
            *_KEY,
            _required("media_digest", _TEXT),
            pa.field("audio", pa.large_binary()),
            pa.field("audio_shape", pa.list_(pa.int32())),
            pa.field("video", pa.large_binary()),
            pa.field("video_shape", pa.list_(pa.int32())),
        ],
    ),
    "replies": _schema(
        "replies",
        [
            *_KEY,
            _required("rung", _TEXT),
            _required("sentence", _TEXT),
            _required("reference", _TEXT),
            _required("reply", _TEXT),
            pa.field("sentence_emotion", _TEXT),
            pa.field("reference_emotion", _TEXT),
            pa.field("finish_reason", _TEXT),
            pa.field("prompt_tokens", pa.int32()),
            pa.field("reply_tokens", pa.int32()),
            pa.field("reference_nats", pa.float64()),
            pa.field("reference_tokens", pa.int32()),
            pa.field("opposed_nats", pa.float64()),
            pa.field("same_nats", pa.float64()),
        ],
    ),
}
"""Table name -> schema. Columns that may be null may also be left out of a row."""


def write_table(rows: Iterable[dict], schema_name: str) -> bytes:
    """Parquet bytes of `rows`, sorted by key; the same rows in any order give the same bytes.

    The key is the dialogue key and, for candidates and scores, emotion and sample, for replies, the rung. Errors:
    ShardError on an unknown column, a missing required one, a value of another type, or a repeated key
    (rejects have none: a row can be rejected for several reasons).
    """
    schema = _schema_of(schema_name)
    rows = list(rows)
    _check_columns(rows, schema, schema_name)
    if schema_name == "rejects":
        rows.sort(key=_reject_order)
    else:
        columns = key_columns(schema_name)
        # What is null comes before what is not, and is compared with nothing.
        keyed = sorted(
            (([(row.get(c) is not None, row.get(c)) for c in columns], row) for row in rows),
            key=lambda pair: pair[0],
        )
        for (before, row), (after, _) in zip(keyed, keyed[1:], strict=False):
            if before == after:
                raise ShardError(f"{schema_name}: two rows have the key {tuple(row.get(c) for c in columns)}")
        rows = [row for _, row in keyed]
    try:
        table = pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ShardError(f"{schema_name}: a value does not fit its column: {error}") from None
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **_write_options(schema_name, schema))
    return sink.getvalue().to_pybytes()


def read_table(source: bytes | Path, schema_name: str, columns: Sequence[str] | None = None) -> list[dict]:
    """Rows of a table written by `write_table`, in its order; of some columns only where asked.

    ShardError: no such file, no Parquet, another table, or another version of the schema.
    """
    schema = _schema_of(schema_name)
    where = "the shard" if isinstance(source, bytes) else str(source)
    try:
        with pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source) as file:
            _check_identity(file.schema_arrow, schema, schema_name, where)
            wanted = None if columns is None else list(columns)
            # Not threaded: Arrow's worker may drop its last hold of our bytes while Python ends, and aborts.
            return file.read(columns=wanted, use_threads=False).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(f"{where}: cannot be read as {schema_name}: {error}") from None


def read_blob(path: Path, row: int, column: str) -> bytes:
    """One blob of a table of features, of the row at this place in it: its row group is read, and no other.

    ShardError: no such file, no Parquet, no such row, or no blob there.
    """
    try:
        with pq.ParquetFile(path) as file:
            group = 0
            while row >= file.metadata.row_group(group).num_rows:
                row -= file.metadata.row_group(group).num_rows
                group += 1
            blob = file.read_row_group(group, columns=[column], use_threads=False).column(0)[row].as_py()
    except (pa.ArrowInvalid, OSError, IndexError, RuntimeError) as error:
        raise ShardError(f"{path}: cannot be read as features: {error}") from None
    if blob is None:
        raise ShardError(f"{path}: a row has no {column} that should have")
    return blob


def _schema_of(schema_name: str) -> pa.Schema:
    if schema_name not in SCHEMAS:
        raise ShardError(f"no table {schema_name!r}; known: {', '.join(SCHEMAS)}")
    return SCHEMAS[schema_name]


def _check_columns(rows: list[dict], schema: pa.Schema, schema_name: str) -> None:
    known = set(schema.names)
    required = [f.name for f in schema if not f.nullable]
    for row in rows:
        unknown = row.keys() - known
        if unknown:
            raise ShardError(f"{schema_name}: unknown columns {', '.join(sorted(unknown))}")
        missing = [name for name in required if row.get(name) is None]
        if missing:
            place = tuple(row.get(c) for c in KEY_COLUMNS)
            raise ShardError(f"{schema_name}: row {place} lacks {', '.join(missing)}")


def _check_identity(found: pa.Schema, schema: pa.Schema, schema_name: str, where: str) -> None:
    metadata = found.metadata or {}
    name = metadata.get(NAME_KEY, b"").decode()
    version = metadata.get(VERSION_KEY, b"").decode()
    if name != schema_name:
        raise ShardError(f"{where}: holds {name or 'a table of another program'}, not {schema_name}")
    if version != str(VERSIONS[schema_name]):
        raise ShardError(
            f"{where}: {schema_name} of schema version {version}, this program reads "
            f"version {VERSIONS[schema_name]}; run again to rebuild it"
        )
    if found.names != schema.names or found.types != schema.types:
        raise ShardError(f"{where}: the columns are not those of {schema_name} version {version}")


def _reject_order(row: dict) -> tuple:
    turn = row.get("turn")
    return (row["dataset"], row["split"], row["dialogue_id"], -1 if turn is None else turn,
            row["stage"], row["reason"], row["detail"])  # fmt: skip


def _write_options(schema_name: str, schema: pa.Schema) -> dict:
    options = {"compression": "zstd", "compression_level": 3, "version": "2.6"}
    if schema_name != "features":
        return options
    # Half-precision features barely compress; leaving them raw keeps a random row cheap.
    small = [name for name in schema.names if name not in FEATURE_BLOBS]
    leaf = {name: f"{name}.list.element" if name.endswith("_shape") else name for name in schema.names}
    return {
        "compression": {leaf[n]: "NONE" if n in FEATURE_BLOBS else "ZSTD" for n in schema.names},
        "use_dictionary": [leaf[n] for n in small],
        "write_statistics": [leaf[n] for n in small],
        "row_group_size": FEATURE_ROW_GROUP,
        "version": "2.6",
    }


def bucket_of(dataset: str, split: str, dialogue_id: str, buckets: int) -> int:
    """The bucket of a dialogue: a stable hash of its key, so no other dialogue moves when one is added."""
    key = "\0".join((dataset, split, dialogue_id)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") % buckets


def bucket_count(rows: int, per_bucket: int) -> int:
    """The power of two that brings the rows per bucket nearest to `per_bucket`, on a log scale."""
    if rows <= per_bucket:
        return 1
    return 2 ** round(math.log2(rows / per_bucket))


_UTTERANCE_COLUMNS = tuple(f.name for f in fields(Utterance))


def utterance_to_row(utterance: Utterance) -> dict:
    return {name: getattr(utterance, name) for name in _UTTERANCE_COLUMNS}


def row_to_utterance(row: dict) -> Utterance:
    return Utterance(**row)


def exchange_to_row(exchange: Exchange, selected: bool) -> dict:
    return {**asdict(exchange), "selected": selected}


def row_to_exchange(row: dict) -> tuple[Exchange, bool]:
    return Exchange(**{f.name: row[f.name] for f in fields(Exchange)}), row["selected"]


def candidate_to_row(candidate: Candidate) -> dict:
    """A row of `scores`."""
    return asdict(candidate)


def unscored_to_row(candidate: Candidate) -> dict:
    """A row of `candidates`, which has no cosine yet."""
    return {name: value for name, value in asdict(candidate).items() if name != "cosine"}


def row_to_candidate(row: dict) -> Candidate:
    """From a whole row of `candidates` or `scores`."""
    return Candidate(**row)


def pair_to_row(pair: Pair) -> dict:
    return asdict(pair)


def row_to_pair(row: dict) -> Pair:
    return Pair(**row)


def reply_to_row(reply: Reply) -> dict:
    return asdict(reply)


def row_to_reply(row: dict) -> Reply:
    return Reply(**row)


def reject_to_row(reject: Reject, stage: str) -> dict:
    return {**asdict(reject), "stage": stage}


def pack_array(array: np.ndarray | None) -> tuple[bytes | None, list[int] | None]:
    """(blob, shape) of a feature array, stored as little-endian half precision; (None, None) for None."""
    if array is None:
        return None, None
    return np.ascontiguousarray(array, dtype="<f2").tobytes(), list(array.shape)


def unpack_array(blob: bytes | None, shape: Sequence[int] | None) -> np.ndarray | None:
    """The float16 array of `pack_array`; None for None."""
    if blob is None or shape is None:
        return None
    return np.frombuffer(blob, dtype="<f2").reshape(tuple(shape))
