"""Damage of each kind of file: told by its name, never read as data, mended so that what is whole stays."""

import hashlib
import json
import os
import random
import shlex
import shutil
import sqlite3
from contextlib import closing

import pytest

from storage.filestat import StatCache, cache_fault
from storage.rows import mend_rows, row_check, rows_fault
from storage.store import (
    Record,
    Store,
    StoreError,
    UnreadableError,
    canonical,
    digest_bytes,
    sealed,
    unsealed,
)
from tasks.upkeep import check, collect, damaged

KEYS = [digest_bytes(bytes([n])) for n in range(9)]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def commit(store: Store, stage: str, outputs=(), inputs=(), label="all") -> Record:
    key = digest_bytes(f"{stage} {label}".encode())
    record = Record(
        stage=stage, label=label, key=key, outputs=outputs, inputs=tuple(r.digest for r in inputs)
    )
    store.commit(record, {"input": {ref.name: ref.digest for ref in inputs}})
    return record


def without_a_trace(path, change) -> None:
    """Change a file's bytes as a disk does: its time and size stay."""
    times, data = path.stat(), bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def flip(data: bytearray, at: int = -1) -> None:
    data[at] ^= 4


# Seals ---------------------------------------------------------------------------------------------------


def test_a_seal_is_blake2b_of_the_rest():
    rest = b'{"a":1,"b":[2]}'
    check = hashlib.blake2b(rest, digest_size=16).hexdigest()
    assert sealed({"b": [2], "a": 1}) == b'{"a":1,"b":[2],"check":"%s"}' % check.encode()
    assert unsealed(sealed({"b": [2], "a": 1})) == ({"a": 1, "b": [2]}, True)
    assert unsealed(b'{"a": 1}') == ({"a": 1}, False)


def test_no_single_bit_of_a_record_can_flip_unseen(store):
    """Every bit of a sealed record, exhaustively: it reads as before (a digit's case) or not at all."""
    record = commit(store, "epo", [store.put_bytes("weights", b"w", rows=3)])
    path = store.record_path("epo", record.key)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(UnreadableError, match=record.key):
            store.read_record(path)


# Trees that are laid out ---------------------------------------------------------------------------------


@pytest.fixture
def chain(store, tmp_path):
    """adapter -> replies -> metrics, and beside them a scorer that reads none of it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"12345678")
    tree = store.put_tree("adapter", tmp_path / "model")
    replies, figures = store.put_bytes("replies/a", b"r"), store.put_bytes("metrics.json", b"m")
    commit(store, "dialogue", [tree])
    commit(store, "replies", [replies], [tree])
    commit(store, "metrics", [figures], [replies])
    commit(store, "scores", [store.put_bytes("scores/a", b"s")])
    return tree


def stages(store: Store) -> list[str]:
    return sorted(record.stage for record in store.records())


def test_an_opened_layout_is_read_once_and_then_costs_stats(store, chain):
    weights = store.folder(chain) / "weights"
    os.utime(weights, (1_000, 1_000))  # long ago, so that its time is to be trusted
    first = Store(store.root)
    first.folder(chain)
    assert first._layout_stats.hashed == 1
    later = Store(store.root)
    later.folder(chain)
    assert later._layout_stats.hashed == 0


@pytest.mark.parametrize("how", ["bytes", "cut", "gone", "more", "folder"])
def test_a_damaged_layout_is_never_handed_out(store, chain, how):
    laid = store.folder(chain)
    if how == "bytes":
        (laid / "weights").write_bytes(b"1234567X")
    elif how == "cut":
        (laid / "weights").write_bytes(b"1234")
    elif how == "more":
        (laid / "config.json").write_text("{}")
    else:
        (laid / "weights").unlink()
        if how == "folder":
            (laid / "weights").mkdir()
    assert len(damaged(store.root, repair=False)) == 3  # the layout, replies, metrics
    laid = Store(store.root).folder(chain)
    assert {p.name: p.read_bytes() for p in laid.iterdir()} == {"weights": b"12345678"}
    assert not [p for p in (store.root / "trees").iterdir() if p.name != chain.digest]


def test_repair_lays_out_again_and_drops_what_was_made_from_damage(store, chain):
    (store.folder(chain) / "weights").write_bytes(b"1234567X")
    before = {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file() and "locks" not in p.parts}
    told = damaged(store.root, repair=False)
    assert [line.split()[0] for line in told] == ["dialogue", "metrics", "replies"]
    assert "may have been made from tree" in told[1]
    assert before == {
        p: p.read_bytes() for p in store.root.rglob("*") if p.is_file() and "locks" not in p.parts
    }
    assert damaged(store.root, repair=True) == told
    assert stages(store) == ["dialogue", "scores"]
    assert (store.layout_path(chain.digest) / "weights").read_bytes() == b"12345678"
    assert damaged(store.root, repair=False) == []


def test_damage_that_a_run_found_is_still_told_and_what_is_made_later_is_not(store, chain):
    (store.folder(chain) / "weights").write_bytes(b"1234567X")
    Store(store.root).folder(chain)  # lays it out again
    commit(store, "epo", [store.put_bytes("more", b"e")], [chain])  # made from what is whole
    assert [line.split()[0] for line in damaged(store.root, repair=False)] == ["metrics", "replies"]
    damaged(store.root, repair=True)
    assert stages(store) == ["dialogue", "epo", "scores"] and damaged(store.root, repair=False) == []


def test_a_repair_that_is_killed_halfway_is_gone_on_with(store, chain, monkeypatch):
    (store.folder(chain) / "weights").write_bytes(b"1234567X")
    with monkeypatch.context() as patched:
        patched.setattr(
            "tasks.upkeep._Check.made_from_damage", lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            damaged(store.root, repair=True)
    assert stages(store) == ["dialogue", "metrics", "replies", "scores"]
    damaged(store.root, repair=True)
    assert stages(store) == ["dialogue", "scores"]


def test_a_damaged_note_of_damage_loses_nothing(store, chain):
    (store.folder(chain) / "weights").write_bytes(b"1234567X")
    Store(store.root).folder(chain)
    store.damage_path(chain.digest).write_bytes(b"")
    damaged(store.root, repair=True)
    assert stages(store) == ["dialogue", "scores"] and damaged(store.root, repair=False) == []


def test_training_does_not_go_on_from_what_damage_was_read_into(store, chain):
    (store.folder(chain) / "weights").write_bytes(b"1234567X")
    (store.root / "scratch" / KEYS[0]).mkdir(parents=True)
    (store.root / "scratch" / KEYS[0] / "step.safetensors").write_bytes(b"state")
    Store(store.root).folder(chain)
    assert not list((store.root / "scratch").glob("*/*"))


def test_a_record_from_before_inputs_is_followed_by_its_note(store, chain):
    path = next((store.root / "records" / "replies").iterdir())
    value, _ = unsealed(path.read_bytes())
    del value["inputs"], value["format"]
    path.write_bytes(canonical(value))
    assert {record.stage for record in store.made_from(chain.digest)} == {"replies", "metrics"}


def test_a_layouts_files_are_on_the_disk_before_its_name_is(store, chain, monkeypatch):
    done, sync, rename = [], os.fsync, os.rename
    monkeypatch.setattr(
        "os.fsync", lambda handle: (done.append(os.readlink(f"/proc/self/fd/{handle}")), sync(handle))
    )
    monkeypatch.setattr("os.rename", lambda old, new: (done.append(str(new)), rename(old, new)))
    laid = store.folder(chain)
    assert done[-1] == str(laid) and len(done) == 2 and "trees/.tmp-" in done[0]


# gc keeps what it cannot read ----------------------------------------------------------------------------


def test_gc_keeps_a_trees_other_files_when_one_is_gone(store, tmp_path):
    (tmp_path / "m").mkdir()
    for name in "ab":
        (tmp_path / "m" / name).write_bytes(name.encode())
    commit(store, "s", [store.put_tree("m", tmp_path / "m")])
    store.object_path(digest_bytes(b"a")).unlink()
    collect(store.root)
    assert store.object_path(digest_bytes(b"b")).exists()


def test_gc_refuses_a_listing_that_it_cannot_read(store, chain):
    store.object_path(chain.digest).write_bytes(b"[]")
    for dry in (True, False):
        with pytest.raises(UnreadableError, match=f"{chain.digest} is damaged"):
            collect(store.root, dry=dry)
    assert store.object_path(digest_bytes(b"12345678")).exists()


def test_bytes_are_put_again_where_a_damaged_object_lies(store):
    ref = store.put_bytes("a", b"hello")
    store.object_path(ref.digest).write_bytes(b"hellp")
    assert store.read(store.put_bytes("a", b"hello")) == b"hello"


# Rows ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file_of_rows(tmp_path_factory) -> bytes:
    """A closed file of rows with several pages."""
    store = Store(tmp_path_factory.mktemp("rows"))
    opened = store.rows("candidates")
    for number in range(300):
        opened.put(digest_bytes(str(number).encode()), f"row {number} ".encode() * 20)
    opened.close()
    return (store.root / "rows" / "candidates.sqlite").read_bytes()


@pytest.fixture
def rows(store, file_of_rows):
    path = store.root / "rows" / "candidates.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(file_of_rows)
    return path


def found(store: Store) -> dict[str, bytes]:
    opened = store.rows("candidates")
    try:
        return opened.get_many(digest_bytes(str(n).encode()) for n in range(300))
    finally:
        opened.close()


def test_a_rows_check_is_blake2b_of_key_and_value(rows):
    with closing(sqlite3.connect(rows)) as database:
        key, value, check = database.execute("select * from rows join checks using (key) limit 1").fetchone()
    assert (
        check
        == row_check(key, value)
        == hashlib.blake2b(key.encode() + b"\0" + value, digest_size=16).digest()
    )


def test_a_damaged_row_is_made_again_counted_and_told(store, rows, caplog):
    key = digest_bytes(b"7")
    with closing(sqlite3.connect(rows)) as database, database:
        database.execute("update rows set value = ? where key = ?", (b"row 8", key))
        database.execute("delete from checks where key = ?", (digest_bytes(b"8"),))
    opened = store.rows("candidates")
    got = opened.get_many([key, digest_bytes(b"8"), digest_bytes(b"9")])
    assert list(got) == [digest_bytes(b"9")] and opened.damaged == 2
    opened.put(key, b"again")
    opened.close()
    assert "candidates.sqlite: 2 damaged rows were made again" in caplog.text
    assert damaged(store.root, repair=False) == [f"{rows}: 1 of 300 rows damaged; whole rows are kept"]
    damaged(store.root, repair=True)
    assert (
        damaged(store.root, repair=False) == [] and len(found(store)) == 299 and found(store)[key] == b"again"
    )


def test_rows_from_before_checks_are_read_and_get_them(store, rows):
    with closing(sqlite3.connect(rows)) as database, database:
        database.execute("drop table checks")
        database.execute("pragma user_version=0")
    assert damaged(store.root, repair=False) == []
    assert len(found(store)) == 300 and rows_fault(rows) is None
    with closing(sqlite3.connect(rows)) as database, database:
        assert database.execute("select count(*) from checks").fetchone() == (300,)
        database.execute("update rows set value = x'00' where key = ?", (digest_bytes(b"7"),))
    assert len(found(store)) == 299


def test_a_row_whose_value_and_check_are_no_bytes_is_no_row(store, rows):
    with closing(sqlite3.connect(rows)) as database, database:
        database.execute("update rows set value = 5 where key = ?", (digest_bytes(b"7"),))
        database.execute("update checks set digest = null where key = ?", (digest_bytes(b"7"),))
    assert len(found(store)) == 299 and rows_fault(rows) == "1 of 300 rows damaged"


def test_looking_at_rows_writes_nothing(store, rows):
    assert damaged(store.root, repair=False) == []
    assert [path.name for path in rows.parent.iterdir()] == ["candidates.sqlite"]


def test_rows_in_a_file_that_was_not_closed_are_looked_at_and_kept(store, tmp_path):
    opened = store.rows("candidates")
    opened.put("a", b"1")
    copy = Store(tmp_path / "copy")
    shutil.copytree(
        store.root, copy.root
    )  # as a kill leaves it: what was put lies in the log beside the file
    assert (copy.root / "rows" / "candidates.sqlite-wal").stat().st_size
    assert rows_fault(copy.root / "rows" / "candidates.sqlite") is None
    mend_rows(copy.root / "rows" / "candidates.sqlite")
    assert copy.rows("candidates").get_many(["a"]) == {"a": b"1"}
    opened.close()


def test_rows_are_not_believed_unchecked_because_a_mark_is_damaged(store, rows):
    with closing(sqlite3.connect(rows)) as database, database:
        database.execute("pragma user_version=0")
        database.execute("update rows set value = x'00' where key = ?", (digest_bytes(b"7"),))
    with pytest.raises(UnreadableError, match="candidates.sqlite: damaged"):
        store.rows("candidates")
    damaged(store.root, repair=True)
    assert len(found(store)) == 299 and digest_bytes(b"7") not in found(store)


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_of_a_file_of_rows_is_read_as_a_row(store, rows, seed):
    """Seeded damage anywhere in the file: right rows or none, one named error, and repair keeps what it can read."""
    draw, data = random.Random(seed), bytearray(rows.read_bytes())
    for _ in range(draw.choice((1, 1, 3, 200))):
        data[draw.randrange(100 if seed % 4 == 0 else len(data))] ^= 1 << draw.randrange(8)
    rows.write_bytes(data if seed % 5 else data[: draw.randrange(len(data))])
    right = {digest_bytes(str(n).encode()): f"row {n} ".encode() * 20 for n in range(300)}
    try:
        assert found(store).items() <= right.items()
    except UnreadableError as error:
        assert "candidates.sqlite: damaged" in str(error) and "\n" not in str(error)
        assert damaged(store.root, repair=False) != []
    damaged(store.root, repair=True)
    assert damaged(store.root, repair=False) == []
    assert found(store).items() <= right.items()


# What is fixed once, the cache, and copies ---------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"buckets/meld/train": "16"}', b'{"buckets/meld/train": -1}']
)
def test_a_number_that_was_fixed_outlives_a_damaged_copy(store, text):
    store.fixed("buckets/meld/train", 16)
    for name in ("fixed.json", "fixed.copy.json"):
        (store.root / name).write_bytes(text)
        assert Store(store.root).fixed("buckets/meld/train", 32) == 16
        assert name in damaged(store.root, repair=True)[0]
        assert damaged(store.root, repair=False) == []
        assert store.read_fixed(store.root / name) == {"buckets/meld/train": 16}


def test_without_a_whole_copy_nothing_is_fixed_anew_in_silence(store):
    store.fixed("buckets/meld/train", 16)
    for path in store.fixed_paths():
        without_a_trace(path, lambda data: data.__setitem__(-3, data[-3] ^ 1))
    with pytest.raises(UnreadableError, match="fixed.json: cannot be read .*verify --repair"):
        store.fixed("buckets/meld/train", 32)
    assert len(damaged(store.root, repair=True)) == 2
    assert store.fixed("buckets/meld/train", 32) == 32


def words(message: str) -> list[str]:
    """Of the command between a message's backticks, as a shell reads it."""
    return shlex.split(message.split("`")[1])


def test_what_a_message_says_to_do_names_the_store(store, monkeypatch):
    """As it stands, from any folder; the usual store of a folder needs no name there."""
    ref = store.put_bytes("weights", b"w")
    path = store.object_path(ref.digest)
    path.write_bytes(b"v")
    commit(store, "epo", [ref])
    (record,) = store.record_paths()
    record.write_bytes(b"{")
    rows = store.rows("epo")
    rows.close()
    store.rows_paths()[0].write_bytes(b"no database at all")
    (store.root / "link").symlink_to("nowhere")
    faults = [
        (lambda: store.read(ref), "verify --repair"),
        (lambda: store.read_record(record), "verify --repair"),
        (lambda: store.rows("epo").get("0" * 32), "verify --repair"),
        (store.refuse_links, "verify --repair"),
        (lambda: store.read(ref.model_copy(update={"digest": "0" * 32})), "runs"),
    ]
    for fault, verb in faults:
        with pytest.raises(StoreError) as told:
            fault()
        assert words(str(told.value)) == ["empamba", *verb.split(), "--store", str(store.root)]
    monkeypatch.chdir(store.root.parent)
    for fault, verb in faults:
        with pytest.raises(StoreError) as told:
            fault()
        assert words(str(told.value)) == ["empamba", *verb.split()]


def test_numbers_from_before_copies_are_read(store):
    store.root.mkdir()
    (store.root / "fixed.json").write_bytes(b'{"buckets/meld/train":16}')
    assert damaged(store.root, repair=False) == []
    assert store.fixed("buckets/meld/train", 32) == 16 and store.fixed("buckets/meld/dev", 4) == 4
    assert store.read_fixed(store.fixed_paths()[1]) == {"buckets/meld/train": 16, "buckets/meld/dev": 4}


def test_a_damaged_row_of_the_stat_cache_is_not_believed(store, tmp_path):
    (tmp_path / "file").write_bytes(b"one")
    os.utime(tmp_path / "file", (1_000, 1_000))
    path = tmp_path / "files.sqlite"
    cache = StatCache(path)
    right = cache.digest(tmp_path / "file")
    cache.save()
    assert cache_fault(path) is None
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("update stats set digest = ?", ("0" * 32,))
    assert cache_fault(path) == "1 of 1 rows damaged"
    again = StatCache(path)
    assert again.digest(tmp_path / "file") == right and again.hashed == 1
    again.save()
    assert cache_fault(path) is None


def test_a_stat_cache_from_before_checks_is_read_and_gets_them(tmp_path):
    (tmp_path / "file").write_bytes(b"one")
    os.utime(tmp_path / "file", (1_000, 1_000))
    stat = (tmp_path / "file").stat()
    path = tmp_path / "files.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "create table files (path text primary key, size int, mtime_ns int, inode int, digest text)"
        )
        row = (str(tmp_path / "file"), stat.st_size, stat.st_mtime_ns, stat.st_ino, "ab" * 16)
        database.execute("insert into files values (?, ?, ?, ?, ?)", row)
    for _ in range(2):
        cache = StatCache(path)
        assert cache.digest(tmp_path / "file") == "ab" * 16 and cache.hashed == 0
        cache.save()
    assert cache_fault(path) is None


def test_copies_of_the_report_are_checked(store):
    store.publish({"report.html": b"<html>", "report.json": b"{}"})
    assert damaged(store.root, repair=False) == []
    (store.root / "report.html").write_bytes(b"<htm")
    assert damaged(store.root, repair=True) == [f"{store.root}/report.html: not as it was written"]
    assert not (store.root / "report.html").exists() and (store.root / "report.json").exists()
    (store.root / "published.json").write_bytes(b"{")
    assert "published.json: cannot be read" in damaged(store.root, repair=True)[0]
    assert damaged(store.root, repair=False) == []


def test_a_listed_folder_is_checked_and_removed_when_it_is_damaged(store):
    folder = store.root / "sample" / "abc"
    folder.mkdir(parents=True)
    for name in ("train.csv", "dev.csv"):
        (folder / name).write_text(name)
    store.write_listing(folder)
    assert damaged(store.root, repair=False) == []
    without_a_trace(folder / "train.csv", flip)
    (folder / "new").write_text("")
    assert damaged(store.root, repair=False) == [
        f"{folder}: 2 files are not as they were written: new, train.csv"
    ]
    damaged(store.root, repair=True)
    assert not folder.exists() and not store.listings()


def test_nothing_is_found_in_a_store_that_is_not_there(store):
    assert check(store.root, repair=False) == []
    assert json.loads(sealed({}))["check"] == digest_bytes(b"{}")
