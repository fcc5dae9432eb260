"""Two machines, each a cache of its own, on one bucket of a real S3 server."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.files import StoreError, sealed, unsealed, write_atomic
from storage.records import Record
from storage.remote import store as store_module
from storage.remote.address import address_of, working_folder
from storage.remote.bucket import Bucket, Entry
from storage.remote.opening import open_store
from storage.remote.store import BucketStore
from storage.store import Store, UnreadableError, digest_bytes
from tasks.upkeep import check

PARTS = {"code": {"f": "1"}, "input": {}}


class Machine:
    """One of them: what it has is under a folder of its own."""

    def __init__(self, folder: Path, address: str, monkeypatch):
        self.cache, self.address, self._patch = folder, address, monkeypatch

    @property
    def folder(self) -> Path:
        self._patch.setenv("EMPAMBA_CACHE", str(self.cache))
        return working_folder(self.address)

    def open(self, pull: bool = True) -> BucketStore:
        store = open_store(self.folder, pull=pull)
        assert isinstance(store, BucketStore)
        return store

    def did(self, label: str, data: bytes, key: str = "") -> tuple[Record, Record]:
        """An item whose artefact is `data`: what it put out, and the record that stands then."""
        store, key = self.open(), key or key_of(label)
        store.prepare("stage", key, PARTS)
        record = Record(stage="stage", label=label, key=key, outputs=(store.put_bytes("out", data),))
        return record, store.commit(record, PARTS)


def key_of(label: str) -> str:
    return digest_bytes(label.encode())


@pytest.fixture
def machines(tmp_path, s3, address, monkeypatch) -> tuple[Machine, Machine]:
    return tuple(Machine(tmp_path / name, address, monkeypatch) for name in ("one", "two"))


def test_what_one_machine_did_the_other_has(machines, s3, tmp_path, caplog):
    one, two = machines
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "a.safetensors").write_bytes(b"weights")
    (tmp_path / "tree" / "empty").write_bytes(b"")
    there = one.open()
    tree = there.put_tree("adapter", tmp_path / "tree")
    record = Record(stage="stage", label="a/b", key=key_of("a"), outputs=(tree, there.put_bytes("t", b"x")))
    with there.rows("stage").connection:
        there.rows("stage").put("k1", b"row")
    assert there.fixed("buckets/meld/train", 8) == 8
    there.prepare("stage", record.key, PARTS)
    with s3.counted() as requests:
        assert there.commit(record, PARTS) == record
    put = [name.split("/")[2] for method, name in requests if method == "PUT"]
    assert put == ["objects"] * 4 + ["rows", "records"]  # the record last

    here = two.open()
    assert here.record("stage", record.key) == record and all(map(here.holds, record.outputs))
    assert here.last("stage", "a/b") == {"key": record.key, "label": "a/b", "parts": PARTS}
    assert not here.object_path(record.outputs[1].digest).exists()
    assert here.read(record.outputs[1]) == b"x"
    laid_out = here.folder(tree)
    assert (laid_out / "deep" / "a.safetensors").read_bytes() == b"weights" and (
        laid_out / "empty"
    ).read_bytes() == b""
    assert here.fixed("buckets/meld/train", 16) == 8
    assert here.rows("stage").get_many(["k1"]) == {"k1": b"row"}

    for machine in machines:  # known by now: a page of a listing, and no request an object
        with s3.counted() as requests:
            again = machine.open()
            assert again.record("stage", record.key) == record and all(map(again.holds, record.outputs))
        assert [method for method, _ in requests] == ["GET"] and "list-type=2" in requests[0][1]

    written = [*one.folder.rglob("*"), *two.folder.rglob("*")]
    everything = [p.read_bytes() for p in written if p.is_file()] + [s3.read(name) for name in s3.names()]
    assert not any(
        b"a-secret-that" in data or b"AKIAWHO" in data or s3.url.encode() in data for data in everything
    )
    assert caplog.messages == []


def test_what_both_did_at_once_the_first_one_did(machines):
    """Both have begun before either was done."""
    one, two = machines
    first, second = one.open(), two.open()
    key = key_of("both")
    stands = []
    for store, data in ((first, b"first"), (second, b"second")):
        store.prepare("stage", digest_bytes(b"what neither looks at"), PARTS)
        record = Record(stage="stage", label="both", key=key, outputs=(store.put_bytes("out", data),))
        stands.append(store.commit(record, PARTS))
    assert stands[0] == stands[1] == second.record("stage", key)
    assert second.read(stands[1].outputs[0]) == b"first"

    third = two.open()
    first.put_bytes("out", b"s")
    made = Record(stage="stage", label="both", key=key_of("same"), outputs=(third.put_bytes("out", b"s"),))
    assert first.commit(made, PARTS) == third.commit(made, PARTS) == made


def test_what_is_done_meanwhile_is_not_done_again(machines):
    one, two = machines
    waiting = two.open()
    record, _ = one.did("slow", b"made by one")
    assert waiting.record("stage", record.key) is None
    waiting.prepare("stage", record.key, PARTS)
    assert waiting.record("stage", record.key) == record and waiting.holds(record.outputs[0])


@pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(days=-1)])
def test_the_latest_is_so_by_no_clock_here(machines, s3, monkeypatch, ahead):
    """ahead: the server's clock before this machine's."""
    one, two = machines
    listed = Bucket.list

    def by_another_clock(bucket, folder=None):
        found = listed(bucket, folder)
        return {name: Entry(entry.size, entry.modified + ahead) for name, entry in found.items()}

    monkeypatch.setattr(Bucket, "list", by_another_clock)
    one.did("item", b"first", key_of("first"))
    waiting = two.open()
    assert waiting.last("stage", "item")["key"] == key_of("first")
    one.did("item", b"second", key_of("second"))
    waiting.prepare("stage", key_of("second"), PARTS)
    assert waiting.last("stage", "item")["key"] == key_of("second")
    assert two.open().last("stage", "item")["key"] == key_of("second")


def test_the_latest_runs_are_the_latest_by_the_servers_clock(machines, monkeypatch):
    """The machine of the later one has a clock that is years behind."""
    one, two = machines
    store = one.open()
    ids = "20390101-000000-aaaaaa", "20200101-000000-bbbbbb"
    for run in ids:
        write_atomic(store.root / "runs" / f"{run}.json", sealed({"id": run}))
        store.share_run(run)
    listed = Bucket.list

    def a_second_apart(bucket, folder=None):  # moto tells no less
        times = {f"runs/{run}.json": timedelta(seconds=number) for number, run in enumerate(ids)}
        return {
            name: Entry(entry.size, datetime(2026, 1, 1, tzinfo=UTC) + times.get(name, timedelta()))
            for name, entry in listed(bucket, folder).items()
        }

    monkeypatch.setattr(Bucket, "list", a_second_apart)
    monkeypatch.setattr(store_module, "LATEST_RUNS", 1)
    assert [path.stem for path in (two.open().root / "runs").iterdir()] == [ids[1]]


def test_what_is_made_again_on_purpose_replaces_what_was_there(machines):
    one, two = machines
    old, _ = one.did("forced", b"old")
    new, stands = one.did("forced", b"new")
    assert stands == new != old
    assert two.open().record("stage", new.key) == new


@pytest.mark.parametrize("damage", [b"DATA", b"dat", b"", b"more than data"])
def test_a_damaged_object_is_found_named_and_mended(machines, s3, damage):
    one, two = machines
    record, _ = one.did("item", b"data")
    (ref,) = record.outputs
    (name,) = s3.names(f"{ref.digest}")
    s3.write(name, damage)
    here = two.open()
    # Of another size: seen in the listing. Of the same: when it is read, and never as data.
    assert here.holds(ref) == (len(damage) == ref.size)
    with pytest.raises(StoreError) as error:
        here.read(ref)
    assert f"/objects/{ref.digest[:2]}/{ref.digest}" in str(error.value) and "\n" not in str(error.value)
    assert not here.object_path(ref.digest).exists()
    found = check(two.folder, repair=False)
    assert any(f"{ref.digest}" in finding.line for finding in found)
    assert all(finding.mended for finding in check(two.folder, repair=True))
    if s3.names(ref.digest):  # of another size: made again as it is stale
        two.did("item", b"data")
    # By the machine that still has it whole, or by making it again.
    assert two.did("item", b"data")[1].outputs == (ref,) and s3.read(name) == b"data"
    assert check(two.folder, repair=False) == []


def test_the_machine_that_has_it_whole_mends_the_bucket(machines, s3):
    one, _ = machines
    (ref,) = one.did("item", b"data")[0].outputs
    (name,) = s3.names(ref.digest)
    s3.write(name, b"DATA")
    assert [finding.mended for finding in check(one.folder, repair=True)] == [True]
    assert s3.read(name) == b"data"


def test_a_lost_record_does_not_count_and_is_put_again_without_work(machines, s3):
    one, two = machines
    record, _ = one.did("item", b"data")
    s3.remove(*s3.names("/records/"), *s3.names("/objects/"))
    here = one.open()
    assert here.record("stage", record.key) is None and two.open().record("stage", record.key) is None
    here.prepare("stage", record.key, PARTS)
    assert here.record("stage", record.key) == record and here.holds(record.outputs[0])
    there = two.open()
    assert there.record("stage", record.key) == record and there.read(record.outputs[0]) == b"data"


def test_nothing_of_a_bucket_is_believed(machines, s3, bucket, tmp_path, caplog):
    one, two = machines
    good, _ = one.did("good", b"data")
    at = bucket.address.prefix
    (name,) = s3.names(good.key)
    value, _ = unsealed(s3.read(name))
    hostile = {
        f"records/stage/{key_of('x')}.json": s3.read(name),  # another's
        f"records/stage/{key_of('y')}.json": json.dumps(value).encode(),  # no check
        f"records/stage/{key_of('z')}.json": sealed(value | {"record": value["record"] | {"key": key_of("z"), "label": "../../up"}}),
        f"records/stage/{key_of('n')}.json": sealed(value | {"record": value["record"] | {"format": 99}}),
        f"records/stage/{key_of('b')}.json": b"\x80not json",
        f"records/st age/{key_of('u')}.json": s3.read(name),
        "objects/ab/not-a-digest": b"x",
        "runs/up.json": b"{}",
        "runs/20260101-000000-abcdef.json": b"[1]",
        f"rows/stage/{digest_bytes(b'no table')}.parquet": b"no table",
        f"rows/stage/{key_of('r')}.parquet": b"other bytes",
        "a letter": b"hello",
    }  # fmt: skip
    for path, data in hostile.items():
        s3.write(f"{at}/{path}", data)
    here = two.open()
    assert list(here.records()) == [good]
    here.rows("stage").close()
    said = " ".join(caplog.messages)
    for told in ("x", "y", "z", "n", "b", "r"):
        assert key_of(told) in said
    assert "4 objects that are no store's" in said and digest_bytes(b"no table") in said
    assert not (tmp_path / "up").exists() and {p.name for p in two.cache.iterdir()} == {"stores"}
    s3.write(f"{at}/records/../up.json", b"{}")
    with pytest.raises(StoreError, match=r"records/../up.json.*: no name of a store's: remove that object"):
        two.open()
    s3.remove(f"{at}/records/../up.json")
    lines = [finding.line for finding in check(two.folder, repair=False)]
    named = [n for n in "xyzbr" for line in lines if key_of(n) in line]
    assert named == [*"xyzbr"] and len(lines) == 7 and not any(key_of("n") in line for line in lines)
    # An item whose record there is damaged is made, and its record replaces that one; a later version's stops it.
    two.did("b", b"made")
    assert one.open().record("stage", key_of("b")) is not None
    with pytest.raises(UnreadableError, match="written by a newer Empamba"):
        two.did("n", b"made")
    assert all(finding.mended for finding in check(two.folder, repair=True))
    assert check(two.folder, repair=False) == [] and list(two.open().records()) != []


def test_a_working_folder_is_a_cache(machines, monkeypatch):
    one, two = machines
    record, _ = one.did("item", b"data")
    shutil.rmtree(one.folder)
    assert one.open().read(record.outputs[0]) == b"data"
    one.open().object_path(record.outputs[0].digest).write_bytes(b"DATA")
    assert one.open().read(record.outputs[0]) == b"data"  # damaged here, whole there
    folder = one.folder
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://elsewhere.test")
    with pytest.raises(StoreError, match="at another endpoint than AWS_ENDPOINT_URL names"):
        address_of(folder)
    (folder / "bucket.json").write_bytes(b"{}")
    with pytest.raises(StoreError, match="bucket.json: damaged; remove"):
        open_store(folder)
    assert type(open_store(two.cache)) is Store


def test_what_another_machine_made_for_this_run_is_committed_here(machines, s3):
    """As a worker of a cluster does: the run sees the artefact's name alone."""
    one, two = machines
    here, there = one.open(), two.open(pull=False)
    ref = there.put_bytes("out", b"made there")
    with s3.counted() as requests:
        there.share([ref])
    assert [method for method, _ in requests] == ["HEAD", "PUT"]  # and no listing
    record = Record(stage="stage", label="far", key=key_of("far"), outputs=(ref,))
    assert here.commit(record, PARTS) == record and not here.object_path(ref.digest).exists()
    assert two.open().record("stage", record.key) == record
    lacking = record.model_copy(
        update={"key": key_of("lacking"), "outputs": (ref.model_copy(update={"digest": key_of("?")}),)}
    )
    with pytest.raises(StoreError, match="is missing"):
        here.commit(lacking, PARTS)
    assert s3.names(lacking.key) == []
