"""The artefact store: content addressing, atomicity, trees, records, locks, rows."""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from storage.store import Record, Store, StoreError, canonical, digest_bytes, write_atomic
from tests.support.waiting import wait_for, waits_for_a_lock

KEY = "0123456789abcdef" * 2


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def test_digest_is_blake2b_of_the_bytes(store):
    ref = store.put_bytes("a", b"hello", rows=3)
    assert ref.digest == hashlib.blake2b(b"hello", digest_size=16).hexdigest()
    assert store.read(ref) == b"hello"
    assert (ref.size, ref.rows) == (5, 3)


def test_equal_bytes_are_one_object_under_any_name(store):
    store.put_bytes("a", b"x")
    store.put_bytes("b", b"x")
    assert len([p for p in (store.root / "objects").rglob("*") if p.is_file()]) == 1


def test_damage_is_refused_by_every_reader(store):
    ref = store.put_bytes("shard", b"hello")
    store.object_path(ref.digest).write_bytes(b"hellp")
    assert store.holds(ref)
    assert not store.holds(ref, rehash=True)
    for read in (store.read, store.path):
        with pytest.raises(StoreError, match="shard.*damaged"):
            read(ref)
    store.object_path(ref.digest).unlink()
    assert not store.holds(ref)
    for read in (store.read, store.path):
        with pytest.raises(StoreError, match="missing"):
            read(ref)
    assert store.path(store.put_bytes("shard", b"hello")).read_bytes() == b"hello"


def test_a_tree_comes_back_as_it_was(store, tmp_path):
    source = tmp_path / "model"
    (source / "sub").mkdir(parents=True)
    (source / "a.json").write_text("{}")
    (source / "sub" / "w.bin").write_bytes(bytes(range(256)))
    ref = store.put_tree("model", source)
    laid = store.folder(ref)
    assert (laid / "sub" / "w.bin").read_bytes() == bytes(range(256))
    assert sorted(p.relative_to(laid).as_posix() for p in laid.rglob("*") if p.is_file()) == [
        "a.json",
        "sub/w.bin",
    ]
    assert store.put_tree("model", laid).digest == ref.digest


def test_a_tree_without_one_of_its_files_is_not_whole(store, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "w.bin").write_bytes(b"weights")
    ref = store.put_tree("m", tmp_path / "m")
    store.object_path(digest_bytes(b"weights")).unlink()
    assert not store.holds(ref)


def test_a_record_is_what_makes_an_item_fresh(store):
    ref = store.put_bytes("a", b"x")
    assert store.record("stage", KEY) is None
    store.commit(Record(stage="stage", label="meld/train/0", key=KEY, outputs=(ref,)), {"setting": {"a": 1}})
    assert store.record("stage", KEY).outputs == (ref,)
    assert store.last("stage", "meld/train/0")["parts"] == {"setting": {"a": 1}}


def test_a_damaged_record_reads_as_none(store):
    store.commit(Record(stage="s", label="l", key=KEY, outputs=()), {})
    store.record_path("s", KEY).write_bytes(b'{"stage": "s", "la')
    assert store.record("s", KEY) is None


def test_canonical_json_refuses_what_it_cannot_hold():
    assert canonical({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(TypeError):
        canonical({1, 2})


def test_write_atomic_leaves_the_old_file_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_atomic(path, b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(StoreError, match="f: cannot be written: disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_number_is_fixed_by_whoever_comes_first(store):
    assert store.fixed("buckets/meld/train", 16) == 16
    assert store.fixed("buckets/meld/train", 32) == 16
    for copy in ("fixed.json", "fixed.copy.json"):
        known = json.loads((store.root / copy).read_bytes())
        check = known.pop("check")
        assert known == {"buckets/meld/train": 16}
        assert check == hashlib.blake2b(b'{"buckets/meld/train":16}', digest_size=16).hexdigest()


def test_rows_come_back_and_are_durable(store):
    rows = store.rows("candidates")
    rows.put("a", b"1")
    rows.put("b", b"2")
    assert store.rows("candidates").get_many(["a", "b", "c"]) == {"a": b"1", "b": b"2"}
    assert len(rows.get_many([str(i) for i in range(2000)])) == 0


def test_an_opener_of_rows_waits_for_another_who_is_making_the_file(store):
    """SQLite itself does not wait there: a file that is being turned to write-ahead logging is "locked" at once."""
    file = store.root / "rows" / "features.sqlite"
    file.parent.mkdir(parents=True)
    with ThreadPoolExecutor(1) as other, closing(sqlite3.connect(file, isolation_level=None)) as making:
        with store.lock("rows"):
            making.execute("begin immediate")
            opened = other.submit(store.rows, "features")
            wait_for(lambda: waits_for_a_lock(os.getpid()))
            assert not opened.done()
            making.execute("rollback")
        opened.result(timeout=30).put("a", b"1")
    assert store.rows("features").get_many(["a"]) == {"a": b"1"}


def test_a_killed_process_holds_no_lock(store):
    code = (
        "import sys, time; from storage.store import Store\n"
        f"with Store({str(store.root)!r}).lock('k'):\n  print('held', flush=True); time.sleep(60)"
    )
    root = Path(__file__).resolve().parents[2]
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root)
    assert holder.stdout.readline() == b"held\n"
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with store.lock("k"):
        assert time.monotonic() - started < 30
