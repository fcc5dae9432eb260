"""Shards: the same bytes, strict columns, refused versions, and readability by other programs."""

import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import shards
from storage.exchanges import Exchange
from storage.shards import (
    KEY_COLUMNS,
    SCHEMAS,
    ShardError,
    bucket_count,
    bucket_of,
    pack_array,
    read_blob,
    read_table,
    write_table,
)
from storage.utterance import Reject, Utterance


def utterances(count=40):
    return [
        Utterance("meld", "train", str(n // 4), n % 4, "Ross", f"text {n}’", "happy", "joy", start=n / 3)
        for n in range(count)
    ]


def test_utterances_survive_in_key_order():
    rows = [shards.utterance_to_row(u) for u in utterances()]
    back = [shards.row_to_utterance(row) for row in read_table(write_table(rows, "utterances"), "utterances")]
    assert back == sorted(utterances(), key=lambda u: u.key)


def test_row_order_does_not_change_the_bytes():
    rows = [shards.utterance_to_row(u) for u in utterances()]
    shuffled = rows.copy()
    random.Random(0).shuffle(shuffled)
    assert write_table(rows, "utterances") == write_table(shuffled, "utterances")
    rows[3] = {**rows[3], "text": "other"}
    assert write_table(rows, "utterances") != write_table(shuffled, "utterances")


def test_exchanges_and_rejects_survive():
    exchange = Exchange("meld", "train", "0", 3, "Hi.", "No.", "happy", None, "A", "B")
    (row,) = read_table(write_table([shards.exchange_to_row(exchange, True)], "exchanges"), "exchanges")
    assert shards.row_to_exchange(row) == (exchange, True)
    rejects = [Reject("meld", "dev", "", None, "bad_row", "line 3"), Reject("meld", "dev", "2", 1, "x", "y")]
    rows = read_table(write_table([shards.reject_to_row(r, "ingest") for r in rejects], "rejects"), "rejects")
    assert rows == [{**asdict(reject), "stage": "ingest"} for reject in rejects]


def test_answers_survive_and_their_rows_have_the_same_bytes_as_rows_by_hand():
    place = {"dataset": "meld", "split": "train", "dialogue_id": "0", "turn": 3}
    written = {"source": "prompted", "emotion": "Sad", "sample": 0, "prompt": "p", "text": "No.", "usable": False, "reason": "short", "seed": 1,
               "engine": "e", "weights": "w", "settings": "{}"}  # fmt: skip
    pair = {
        "sentence": "Hi.",
        "reply": "Hello.",
        "chosen": "Hello.",
        "rejected": "No.",
        "rejected_emotion": "Sad",
        "cosine": -0.5,
    }
    reply = {"rung": "1-llm", "sentence": "Hi.", "reference": "Hello.", "reply": "", "prompt_tokens": 7}
    for table, row, read, to_row in (
        ("scores", {**place, **written}, shards.row_to_candidate, shards.candidate_to_row),
        ("scores", {**place, **written, "cosine": 0.25}, shards.row_to_candidate, shards.candidate_to_row),
        (
            "scores",
            {**place, **written, "source": "dialogue", "emotion": None, "sample": 3, "prompt": None},
            shards.row_to_candidate,
            shards.candidate_to_row,
        ),
        (
            "pairs",
            {**place, **pair, "rejected_emotion": None, "chosen": "Oh.", "chosen_cosine": 0.5},
            shards.row_to_pair,
            shards.pair_to_row,
        ),
        ("pairs", {**place, **pair}, shards.row_to_pair, shards.pair_to_row),
        ("replies", {**place, **reply}, shards.row_to_reply, shards.reply_to_row),
    ):
        by_hand = write_table([row], table)
        found = read(read_table(by_hand, table)[0])
        assert found.key == tuple(place.values())
        assert write_table([to_row(found)], table) == by_hand
        assert {name: getattr(found, name) for name in row} == row
        assert to_row(found).keys() == set(SCHEMAS[table].names)
    (row,) = read_table(write_table([{**place, **written}], "candidates"), "candidates")
    assert shards.row_to_candidate(row).cosine is None


def test_every_table_opens_with_the_key_and_can_be_empty():
    for name, schema in SCHEMAS.items():
        assert tuple(schema.names[:4]) == KEY_COLUMNS
        assert read_table(write_table([], name), name) == []


def test_features_keep_half_precision_and_small_row_groups(tmp_path):
    generator = np.random.default_rng(0)
    rows, arrays = [], []
    for turn in range(20):
        audio = generator.normal(size=(turn + 1, 6)).astype(np.float16)
        arrays.append(audio)
        blob, shape = pack_array(audio)
        video, video_shape = pack_array(None if turn % 2 else audio[:, None])
        rows.append(
            {"dataset": "meld", "split": "dev", "dialogue_id": "1", "turn": turn, "media_digest": "d",
             "audio": blob, "audio_shape": shape, "video": video, "video_shape": video_shape}
        )  # fmt: skip
    path = tmp_path / "features.parquet"
    path.write_bytes(write_table(rows, "features"))
    for row, expected in zip(read_table(path, "features"), arrays, strict=True):
        np.testing.assert_array_equal(shards.unpack_array(row["audio"], row["audio_shape"]), expected)
        assert (row["video"] is None) == bool(row["turn"] % 2)
    metadata = pq.ParquetFile(path).metadata
    assert metadata.num_row_groups == 3
    group = metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert columns["audio"].compression == "UNCOMPRESSED" and columns["audio"].statistics is None
    assert columns["dialogue_id"].compression == "ZSTD"
    assert "RLE_DICTIONARY" not in columns["video"].encodings
    assert read_table(path, "features", columns=["turn"]) == [{"turn": t} for t in range(20)]
    # One blob at a time, from the first, a middle and the last row group.
    for place in (0, 7, 8, 13, 19):
        blob = read_blob(path, place, "audio")
        np.testing.assert_array_equal(shards.unpack_array(blob, arrays[place].shape), arrays[place])
    for place, fault in ((1, "a row has no video"), (20, "cannot be read")):
        with pytest.raises(ShardError, match=fault):
            read_blob(path, place, "video")


def test_other_programs_read_it(tmp_path):
    path = tmp_path / "utterances.parquet"
    path.write_bytes(write_table([shards.utterance_to_row(u) for u in utterances()], "utterances"))
    frame = polars.read_parquet(path)
    assert frame.height == 40 and frame["text"][0] == "text 0’"


def test_reading_and_writing_start_no_threads():
    """A thread of Arrow's that lets go of Python's bytes while the interpreter ends aborts the process."""
    program = (
        "import os\n"
        "from storage.shards import read_table, write_table\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "assert read_table(write_table([], 'utterances'), 'utterances') == []\n"
        "print(before, len(os.listdir('/proc/self/task')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    before, after = done.stdout.split()
    assert before == after


def test_wrong_rows_are_refused():
    row = shards.utterance_to_row(utterances(1)[0])
    for broken, message in (
        ({**row, "colour": "red"}, "unknown columns colour"),
        ({**row, "text": None}, "lacks text"),
        ({**row, "turn": "first"}, "does not fit"),
    ):
        with pytest.raises(ShardError, match=message):
            write_table([broken], "utterances")
    with pytest.raises(ShardError, match="two rows have the key"):
        write_table([row, dict(row)], "utterances")


def test_other_tables_and_versions_are_refused(tmp_path, monkeypatch):
    data = write_table([], "utterances")
    with pytest.raises(ShardError, match="holds utterances, not exchanges"):
        read_table(data, "exchanges")
    now = shards.VERSIONS["utterances"]
    monkeypatch.setitem(shards.VERSIONS, "utterances", now + 1)
    with pytest.raises(ShardError, match=f"schema version {now}, this program reads version {now + 1}"):
        read_table(data, "utterances")
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"a": [1]}), foreign)
    with pytest.raises(ShardError, match="another program"):
        read_table(foreign, "utterances")
    with pytest.raises(ShardError, match="cannot be read"):
        read_table(b"no parquet", "utterances")
    with pytest.raises(ShardError, match="cannot be read"):
        read_table(tmp_path / "absent.parquet", "utterances")


def test_buckets():
    assert [bucket_count(n, 500) for n in (0, 1, 500, 600, 800, 9989, 151645)] == [1, 1, 1, 1, 2, 16, 256]
    buckets = [bucket_of("meld", "train", str(d), 16) for d in range(1038)]
    counts = np.bincount(buckets, minlength=16)
    assert set(buckets) == set(range(16)) and counts.max() < 2 * counts.mean()
    assert bucket_of("meld", "dev", "0", 1024) != bucket_of("meld", "train", "0", 1024)
    # A value fixed for good: it decides which file a dialogue lies in.
    assert bucket_of("meld", "train", "0", 2**16) == 41559
