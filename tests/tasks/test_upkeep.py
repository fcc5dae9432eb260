"""Upkeep of a real store, and stores that are shared, full, read-only or on another file system."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from storage.sample.layout import write_sample
from storage.store import Record, Store, StoreError
from tasks.engine.jobs import StageFailed
from tasks.upkeep import collect, damaged
from tests.support.rerun import digests, run, session
from tests.support.waiting import wait_for, waits_for_a_lock

ROOT = Path(__file__).resolve().parents[2]
UNTIL = "utterances"
ITEMS = ["utterances iemocap", "utterances meld", "utterances multidialog", "utterances.exchanges all"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "sample"
    write_sample(root, media=False)
    return root


@pytest.fixture
def store(raw, tmp_path) -> Path:
    with session("tiny", tmp_path / "store", raw) as opened:
        assert run(opened, UNTIL) == ITEMS
    return tmp_path / "store"


def again(store: Path, raw: Path, *changes: str) -> list[str]:
    with session("tiny", store, raw, changes) as opened:
        return run(opened, UNTIL)


def content(store: Path, raw: Path) -> dict[str, str]:
    with session("tiny", store, raw) as opened:
        return digests(opened, UNTIL)


def an_object(store: Path, raw: Path, artefact: str = "utterances meld utterances/meld/train/0") -> Path:
    digest = content(store, raw)[artefact]
    return store / "objects" / digest[:2] / digest


def start(*arguments: str | Path, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    command = [*prefix, sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


# verify and gc -------------------------------------------------------------------------------------------


def test_verify_finds_a_flipped_bit_and_repair_lets_it_be_made_again(store, raw):
    before = content(store, raw)
    path = an_object(store, raw)
    data, times = bytearray(path.read_bytes()), path.stat()
    data[100] ^= 4
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a disk does it: without a trace
    assert len(damaged(store, repair=False)) == 1
    assert "utterances [meld]: utterances/meld/train/0" in damaged(store, repair=True)[0]
    assert again(store, raw) == ["utterances meld"]
    assert damaged(store, repair=False) == [] and content(store, raw) == before


def test_verify_looks_into_trees_that_were_laid_out(tmp_path):
    store = Store(tmp_path / "store")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"12345678")
    tree = store.put_tree("model", tmp_path / "model")

    store.commit(Record(stage="s", label="all", key="ab" * 16, outputs=(tree,)), {})
    laid_out = store.folder(tree) / "weights"
    assert damaged(store.root, repair=False) == []
    laid_out.write_bytes(b"12345679")
    assert len(damaged(store.root, repair=True)) == 1
    assert laid_out.read_bytes() == b"12345678" and damaged(store.root, repair=False) == []


def test_gc_keeps_what_any_record_needs(store, raw):
    before = content(store, raw)
    again(store, raw, "data.dialogues=2")
    assert collect(store).files == 0
    assert again(store, raw) == [] and content(store, raw) == before


def test_gc_of_superseded_records_keeps_the_latest(store, raw):
    again(store, raw, "data.dialogues=2")
    told = collect(store, superseded=True, dry=True)
    freed = collect(store, superseded=True)
    assert (told.before, told.after, told.files) == (freed.before, freed.after, freed.files)
    assert freed.files > 4 and freed.after < freed.before
    assert freed.after == sum(p.stat().st_size for p in store.rglob("*") if p.is_file())
    assert again(store, raw, "data.dialogues=2") == [] and damaged(store, repair=False) == []
    assert again(store, raw) == ITEMS


def test_gc_takes_what_a_killed_run_left_and_keeps_what_training_goes_on_from(store, raw):
    (store / "objects" / "ab").mkdir(exist_ok=True)
    for left in (
        store / "objects/ab/.tmp-x",
        store / "objects/ab" / ("ab" * 16),
        store / "trees/.tmp-y/file",
    ):
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"left")
    (store / "scratch/key").mkdir(parents=True)
    (store / "scratch/key/step.safetensors").write_bytes(b"state")
    assert collect(store).files == 3
    assert (store / "scratch/key/step.safetensors").exists()
    assert again(store, raw) == []


def test_gc_waits_for_a_running_flow(store, raw):
    with Store(store).lock("gc", shared=True):
        cleaning = start("flows.cli", "gc", "--yes", "--store", store)
        late = Store(store).put_bytes("late", b"put out by an item that is not recorded yet")
        wait_for(lambda: waits_for_a_lock(cleaning.pid))
        assert cleaning.poll() is None
        assert Store(store).holds(late)
    out, _ = cleaning.communicate(timeout=60)
    assert cleaning.returncode == 0 and "MB before" in out
    assert not Store(store).holds(late) and again(store, raw) == []


# Stores that are shared, elsewhere, full or read-only ----------------------------------------------------


def test_two_runs_at_once_compute_each_item_once(raw, tmp_path):
    both = [start("tests.support.rerun", "tiny", tmp_path / "store", raw, "--until", UNTIL) for _ in range(2)]
    ran = []
    for process in both:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
        ran += json.loads(out.splitlines()[-1])
    assert sorted(ran) == ITEMS


@pytest.fixture
def small_disk(tmp_path):
    """Another file system with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_store_on_another_file_system(store, raw, small_disk):
    assert os.stat(small_disk).st_dev != os.stat(raw).st_dev
    assert again(small_disk / "store", raw) == ITEMS
    assert content(small_disk / "store", raw) == content(store, raw)
    assert again(small_disk / "store", raw) == []


def test_a_full_disk_is_one_line_and_loses_nothing(store, raw, small_disk):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 60_000))
    with pytest.raises(
        (StageFailed, StoreError), match=r"cannot be written: No space left on device; nothing is lost"
    ):
        again(small_disk / "store", raw)
    filler.unlink()
    again(small_disk / "store", raw)
    assert content(small_disk / "store", raw) == content(store, raw)
    assert damaged(small_disk / "store", repair=False) == []


@pytest.fixture
def read_only(store):
    """The store without write permission, and a prefix under which even root is held to it."""
    drop = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or subprocess.run([*drop, "true"]).returncode):
        pytest.skip("root cannot be held to file permissions here")
    (store / "report.json").write_text(json.dumps({"title": "a report", "systems": []}))
    for path in [store, *store.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield drop if os.geteuid() == 0 else ()
    for path in [store, *store.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def told(*arguments: str | Path, prefix: tuple[str, ...]) -> tuple[int, str, str]:
    process = start("flows.cli", *arguments, prefix=prefix)
    out, errors = process.communicate(timeout=300)
    return process.returncode, out, errors


def test_a_read_only_store_can_be_looked_at(store, raw, read_only):
    where = ("--store", store, "--profile", "tiny", "--raw", raw)
    code, out, errors = told("status", "--json", *where, prefix=read_only)
    assert code == 0, errors
    states = {row["stage"]: row["state"] for row in json.loads(out)["stages"]}
    assert states["utterances"] == states["utterances.exchanges"] == "fresh"
    code, _, errors = told("report", "--json", "--store", store, prefix=read_only)
    assert code == 2 and "no run" in errors and len(errors.splitlines()) == 1  # no command line has run here
    assert told("verify", "--store", store, prefix=read_only)[:2] == (0, "0 damaged\n")
    code, out, errors = told("run", "--until", UNTIL, *where, prefix=read_only)
    assert code == 0 and out.startswith("Nothing is stale"), errors


def test_a_read_only_store_says_why_it_cannot_run(store, raw, read_only):
    where = ("--store", store, "--profile", "tiny", "--raw", raw)
    code, out, errors = told("run", "--until", UNTIL, "--set", "data.dialogues=2", *where, prefix=read_only)
    assert code == 1 and "cannot be written: Permission denied" in errors, errors[-2000:]
    assert [line for line in errors.splitlines() if not line.endswith("…")][1:] == []
