"""Rot in a real store: whatever file is hit, `status`, `gc`, `verify` and a run end in a known line, and repair and a
run give what was there before. And a store that was made before records had a format.
"""

import json
import os
import random
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flows import cli
from storage.sample.layout import write_sample
from storage.store import Store, unsealed
from tasks.engine.run import RunRequest, publish_report
from tasks.engine.runs import recorded
from tasks.upkeep import collect, damaged
from tests.support.rerun import digests, run, session

UNTIL = "utterances"
HOW = ("flip", "cut", "empty")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("raw") / "sample"
    write_sample(root, media=False)
    return root


@pytest.fixture(scope="module")
def finished(raw, tmp_path_factory) -> Path:
    """A store with a file of every kind: real items, and by hand what later stages would leave."""
    root = tmp_path_factory.mktemp("finished") / "store"
    with session("tiny", root, raw) as opened:
        run(opened, UNTIL)
    store = Store(root)
    rows = store.rows("candidates")
    rows.put("0" * 32, b"{}")
    rows.close()
    store.publish({"report.html": b"<html>", "report.json": b'{"systems": [], "run": {"artefact": ""}}'})
    (root / "sample" / "abc").mkdir(parents=True)
    (root / "sample" / "abc" / "train.csv").write_text("x")
    store.write_listing(root / "sample" / "abc")
    return root


def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy at the same place for the stat cache's sake: times stay."""
    shutil.copytree(finished, tmp_path / "store", dirs_exist_ok=True)
    return tmp_path / "store"


def kinds(store: Path) -> dict[str, list[Path]]:
    """Kind -> its files. A record of each stage, an object, …"""
    found = {}
    for pattern in (
        "objects/*/*",
        "trees/*/*",
        "records/*/*",
        "last/*/*",
        "rows/*.sqlite",
        "sample/*.json",
        "*",
    ):
        for path in sorted(store.glob(pattern)):
            if path.is_file():
                found.setdefault(path.name if pattern == "*" else pattern, []).append(path)
    return found


def hurt(path: Path, how: str, draw: random.Random) -> None:
    """As a disk does it: for a flip without a trace in its time and size."""
    data, times = bytearray(path.read_bytes()), path.stat()
    if how == "flip" and data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(
        data if how == "flip" else b"" if how == "empty" else data[: draw.randrange(len(data) + 1)]
    )
    if how == "flip":
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def told(capsys, monkeypatch, *arguments) -> tuple[int, str]:
    """Exit code and what was printed; anything but a known mistake is raised as what it is."""
    monkeypatch.setattr(sys, "argv", ["empamba", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as exited:
        code = exited.code or 0
    printed = capsys.readouterr()
    assert code in (0, 1, 2) and "Traceback" not in printed.err
    if code and printed.err:
        assert len(printed.err.strip().splitlines()) == 1 and "error: " in printed.err
    return code, printed.out + printed.err


@pytest.mark.parametrize("how", HOW)
def test_whatever_file_is_hit_every_command_ends_in_a_known_line(
    finished, raw, tmp_path, how, capsys, monkeypatch
):
    draw = random.Random(how)
    with session("tiny", finished, raw) as opened:
        before = digests(opened, UNTIL)
    where = ("--store", tmp_path / "store", "--profile", "tiny", "--raw", raw)
    for kind, paths in kinds(finished).items():
        store = copied(finished, tmp_path)
        victim = draw.choice(paths)
        hurt(store / victim.relative_to(finished), how, draw)
        for command in (["status", "--until", UNTIL, *where], ["report", "--store", store]):
            told(capsys, monkeypatch, *command)
        for command in (["gc", "--yes"], ["gc", "--superseded", "--yes"], ["verify"]):
            told(capsys, monkeypatch, *command, "--store", store)
        told(capsys, monkeypatch, "verify", "--repair", "--store", store)
        # An artefact that was dropped is missing until a run makes it again; nothing else is left to be told.
        assert (damaged(store, repair=False) == []) or kind == "objects/*/*", victim
        shutil.rmtree(store)
    store = copied(finished, tmp_path)
    for paths in kinds(finished).values():
        hurt(store / draw.choice(paths).relative_to(finished), how, draw)
    assert damaged(store, repair=True) != []
    with session("tiny", store, raw) as opened:
        run(opened, UNTIL)
    with session("tiny", store, raw) as opened:
        assert run(opened, UNTIL) == [] and digests(opened, UNTIL) == before
    assert damaged(store, repair=False) == []


def test_a_run_mends_what_it_meets_without_repair(finished, raw, tmp_path):
    """A record, a note, the cache and an object that its plan reads; the other files a run does not need."""
    store = copied(finished, tmp_path)
    with session("tiny", finished, raw) as opened:
        before = digests(opened, UNTIL)
    for pattern in ("records/utterances/*", "last/*/*", "files.sqlite", "objects/*/*"):
        for path in store.glob(pattern):
            path.write_bytes(b"")
    with session("tiny", store, raw) as opened:
        assert "utterances meld" in run(opened, UNTIL)
    with session("tiny", store, raw) as opened:
        assert run(opened, UNTIL) == [] and digests(opened, UNTIL) == before


def test_the_reason_says_that_a_record_cannot_be_read(finished, raw, tmp_path):
    store = copied(finished, tmp_path)
    for path in store.glob("records/utterances/*"):
        path.write_bytes(path.read_bytes()[:-9])
    with session("tiny", store, raw) as opened:
        plan = opened.plan(UNTIL)[0]
    assert set(map(tuple, plan.stale.values())) == {("its record cannot be read",)}


def test_what_a_record_names_is_no_traceback_when_no_stage_can_read_it(
    finished, raw, tmp_path, capsys, monkeypatch
):
    """A record from before formats has no check: a flipped bit in a name passes, and no bucket has that number."""
    store = copied(finished, tmp_path)
    before_formats(store)
    (path,) = (p for p in store.glob("records/utterances/*") if b"/meld/train/0" in p.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"utterances/meld/train/0", b"utterances/meld-train-0"))
    told(capsys, monkeypatch, "status", "--store", store, "--profile", "tiny", "--raw", raw)


def before_formats(store: Path) -> None:
    """Turn a store into one as it was written before records had a format and files a check."""
    for path in (*store.glob("records/*/*"), *store.glob("last/*/*"), store / "fixed.json"):
        value, _ = unsealed(path.read_bytes())
        for name in ("format", "inputs"):
            value.pop(name, None)
        path.write_bytes(json.dumps(value).encode())
    for name in ("fixed.copy.json", "published.json"):
        (store / name).unlink()
    for path in store.glob("sample/*.json"):
        path.unlink()
    with closing(sqlite3.connect(store / "rows" / "candidates.sqlite")) as database, database:
        database.execute("drop table checks")
        database.execute("pragma user_version=0")
    with closing(sqlite3.connect(store / "files.sqlite")) as database, database:
        database.execute("alter table stats rename to files")
        database.execute("alter table files drop column crc")


def test_a_store_from_before_formats_opens_as_it_is(finished, raw, tmp_path):
    store = copied(finished, tmp_path)
    before_formats(store)
    with session("tiny", finished, raw) as opened:
        before = digests(opened, UNTIL)
    assert damaged(store, repair=False) == [] and collect(store).files == 0
    with session("tiny", store, raw) as opened:
        assert run(opened, UNTIL) == [] and digests(opened, UNTIL) == before
        assert opened.store.rows("candidates").get_many(["0" * 32]) == {"0" * 32: b"{}"}
        assert opened.store.fixed("buckets/meld/train", 999) != 999
    assert damaged(store, repair=True) == [] and collect(store, superseded=True).files == 0


def publish(store, opened):
    with recorded(store, "tiny", (), None, None) as note:
        publish_report(RunRequest(profile="tiny", store=str(store)), opened.plan(), note)


@pytest.mark.slow
def test_a_whole_finished_store_comes_back_from_rot_in_every_kind_of_file(tmp_path):
    """The tiny profile to its report, then one damaged file of each kind, repair and a run."""
    store, draw = tmp_path / "store", random.Random(0)
    with session("tiny", store, None) as opened:
        opened.lay_out_sample()
        run(opened)
        before = digests(opened)
        publish(store, opened)
    assert damaged(store, repair=False) == []
    assert {"trees/*/*", "rows/*.sqlite", "report.html", "sample/*.json"} <= kinds(store).keys()
    for number, paths in enumerate(kinds(store).values()):
        hurt(draw.choice(paths), HOW[number % 3], draw)
    assert damaged(store, repair=True) != []
    with session("tiny", store, None) as opened:
        opened.lay_out_sample()
        run(opened)
    with session("tiny", store, None) as opened:
        assert digests(opened) == before
        publish(store, opened)
    assert damaged(store, repair=False) == []
