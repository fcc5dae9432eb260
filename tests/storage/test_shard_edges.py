"""Edges of shards: order of rejects, row groups, columns of another type, what a message names."""

import io
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.shards import (
    SCHEMAS,
    ShardError,
    bucket_count,
    bucket_of,
    pack_array,
    read_table,
    unpack_array,
    write_table,
)


def reject(dialogue: str, turn: int | None, reason: str = "r", detail: str = "d") -> dict:
    row = {"dataset": "meld", "split": "dev", "dialogue_id": dialogue, "turn": turn}
    return {**row, "stage": "ingest", "reason": reason, "detail": detail}


def test_rejects_stand_in_one_order_those_without_a_turn_first():
    """A line that is no row stands before turn 0 of its dialogue."""
    rows = [
        reject("1", None),
        reject("1", 0, "a"),
        reject("1", 0, "b", "x"),
        reject("1", 0, "b", "y"),
        reject("1", 1),
        reject("2", None),
    ]
    wanted = write_table(rows, "rejects")
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert write_table(shuffled, "rejects") == wanted
    assert read_table(wanted, "rejects") == rows


def clip(turn: int) -> dict:
    blob, shape = pack_array(np.ones((2, 3)))
    key = {"dataset": "meld", "split": "dev", "dialogue_id": "1", "turn": turn}
    return {**key, "media_digest": "d", "audio": blob, "audio_shape": shape}


def test_features_stand_eight_to_a_row_group():
    file = pq.ParquetFile(io.BytesIO(write_table([clip(turn) for turn in range(17)], "features")))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [8, 8, 1]


@pytest.mark.parametrize("change", ["type", "name"])
def test_columns_of_another_type_or_name_are_refused(change):
    """The table's own name and version, and a column that is not what they say."""
    schema = SCHEMAS["exchanges"]
    place = schema.get_field_index("sentence")
    field = pa.field("sentence", pa.large_string()) if change == "type" else pa.field("phrase", pa.string())
    foreign, sink = schema.set(place, field), io.BytesIO()
    pq.write_table(pa.Table.from_pylist([], schema=foreign), sink)
    with pytest.raises(ShardError, match="the shard: the columns are not those of exchanges version"):
        read_table(sink.getvalue(), "exchanges")


def test_a_message_names_the_file_where_there_is_one(tmp_path):
    for source, named in (
        (b"no parquet", "the shard"),
        (tmp_path / "a.parquet", str(tmp_path / "a.parquet")),
    ):
        with pytest.raises(ShardError, match=f"^{named}: cannot be read as exchanges"):
            read_table(source, "exchanges")


def test_an_array_without_bytes_or_shape_is_none():
    assert unpack_array(None, None) is unpack_array(None, [1]) is unpack_array(b"ab", None) is None
    assert unpack_array(*pack_array(np.array([[1.0, 2.5]]))).tolist() == [[1.0, 2.5]]
    assert pack_array(None) == (None, None)


def test_buckets_by_the_nearest_power_of_two():
    """Of 500 a bucket: one up to 500 and on to 707, the middle of 500 and 1000 on a log scale; four from 1415 on."""
    assert [bucket_count(n, 500) for n in (499, 500, 501, 707, 708, 1000, 1414, 1415)] == [
        1,
        1,
        1,
        1,
        2,
        2,
        2,
        4,
    ]
    assert {bucket_of("meld", "dev", str(d), 2) for d in range(20)} == {0, 1}
    assert bucket_of("meld", "dev", "7", 1) == 0
