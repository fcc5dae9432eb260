"""Records of runs: claimed, checked, bounded; and what is damaged is named and stops nothing."""

import json
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.errors import InputError
from storage.store import canonical, digest_bytes
from tasks.engine import runs as module
from tasks.engine.runs import KEPT, drop_unreadable, recorded, run_of, runs, worked_seconds
from tasks.upkeep import damaged


def a_run(root, **facts):
    with recorded(root, "tiny", ("a.b=1",), "/raw", None) as note:
        note.update(**facts)
    return note.record


def file_of(root, record):
    return root / "runs" / f"{record.id}.json"


def test_a_record_says_what_was_asked_for_and_what_became_of_it(tmp_path):
    with recorded(tmp_path, "tiny", ("a.b=1",), None, "pairs") as note:
        (running,), _ = runs(tmp_path)
        assert running.state == "running" and running.ended is None
        note.update(seconds={"epo": 2.5})
    (found,), unreadable = runs(tmp_path)
    assert (found.profile, found.changes, found.raw, found.until) == ("tiny", ("a.b=1",), None, "pairs")
    assert found.state == "finished" and found.took_s >= 0 and not unreadable
    assert worked_seconds(tmp_path, "epo") == 2.5 and worked_seconds(tmp_path, "pairs") is None
    assert [path.suffix for path in (tmp_path / "runs").iterdir()] == [".json"]


@pytest.mark.parametrize(
    "error, state",
    [(ValueError("no \nroom"), "failed"), (KeyboardInterrupt(), "stopped"), (SystemExit(1), "stopped")],
)
def test_how_it_ended_is_kept_and_the_error_goes_on(tmp_path, error, state):
    with pytest.raises(type(error)), recorded(tmp_path, "tiny", (), None, None):
        raise error
    (found,), _ = runs(tmp_path)
    assert found.state == state and found.said and len(found.said) < 400


def _hold(root, ready, end):
    with recorded(root, "tiny", (), None, None):
        ready.set()
        end.wait()


def test_a_killed_run_is_known_by_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, end))
    process.start()
    assert ready.wait(60)
    assert runs(tmp_path)[0][0].state == "running"
    process.kill()
    process.join()
    assert runs(tmp_path)[0][0].state == "killed"


def test_two_that_draw_the_same_id_get_two(tmp_path, monkeypatch):
    drawn = iter(["aaaaaa"] * 8 + ["bbbbbb"] * 8)
    monkeypatch.setattr(module.secrets, "token_hex", lambda _: next(drawn))
    monkeypatch.setattr(module, "_now", lambda: module.datetime(2030, 1, 2, 3, 4, 5, tzinfo=module.UTC))
    with (
        recorded(tmp_path, "one", (), None, None) as first,
        recorded(tmp_path, "two", (), None, None) as second,
    ):
        assert [first.record.id, second.record.id] == ["20300102-030405-aaaaaa", "20300102-030405-bbbbbb"]
        assert {record.profile for record in runs(tmp_path)[0]} == {"one", "two"}


def test_many_at_once_lose_none(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: a_run(tmp_path, said=str(n)).id, range(40)))
    assert {record.id for record in runs(tmp_path)[0]} == set(made) and len(set(made)) == 40


def test_the_latest_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 3)
    made = [a_run(tmp_path).id for _ in range(6)]
    assert [record.id for record in runs(tmp_path)[0]] == made[:1:-1]  # three before the last, and it
    assert len(list((tmp_path / "runs").iterdir())) == 4 and KEPT >= 50


def test_the_last_run_is_the_last_one_whatever_the_clock_says(tmp_path, monkeypatch):
    """A clock that is years ahead, one that is set back while a run is at work, and records without a number."""
    monkeypatch.setattr(module, "KEPT", 3)

    def clock(*years):
        times = iter(years)
        monkeypatch.setattr(module, "_now", lambda: module.datetime(next(times), 1, 1, tzinfo=module.UTC))

    made = []
    for years in ((2040, 2040, 2040), (2020, 2020, 2019), (2021, 2021, 2021)):
        clock(*years)
        made.append(a_run(tmp_path).id)
    found, _ = runs(tmp_path)
    assert [record.id for record in found] == made[::-1] and run_of(tmp_path, None).id == made[-1]
    assert found[1].took_s == 0
    facts = json.loads(file_of(tmp_path, found[2]).read_bytes())
    del facts["number"], facts["check"]
    facts["version"] = 2
    facts["check"] = digest_bytes(canonical(facts))
    file_of(tmp_path, found[2]).write_bytes(canonical(facts))
    for _ in range(3):  # the oldest goes, which is the one whose clock was ahead
        clock(2000, 2000, 2000)
        made.append(a_run(tmp_path).id)
    assert [record.id for record in runs(tmp_path)[0]] == made[:1:-1]


@pytest.mark.parametrize(
    "damage, fault",
    [
        (lambda text: text.replace('"tiny"', '"cpu"'), "does not match its digest"),
        (lambda text: text[:-9], "is no JSON"),
        (lambda text: "[]", "is no record"),
        (lambda text: "{}", "is no record"),
        (lambda text: text.replace('"profile":', '"more":1,"profile":'), "is no record"),
        (lambda text: text.replace('"version":3', '"version":4'), "later version"),
    ],
)
def test_a_damaged_record_is_named_and_stops_nothing(tmp_path, damage, fault):
    good, bad = a_run(tmp_path), a_run(tmp_path)
    path = file_of(tmp_path, bad)
    path.write_text(damage(path.read_text()))
    found, unreadable = runs(tmp_path)
    assert [record.id for record in found] == [good.id] == [run_of(tmp_path, None).id]
    assert list(unreadable) == [path.name] and fault in unreadable[path.name]
    assert any(path.name in line and fault in line for line in damaged(tmp_path, repair=False))
    with pytest.raises(InputError, match=fault):
        run_of(tmp_path, bad.id)
    drop_unreadable(tmp_path)
    assert path.exists() == (fault == "later version") and file_of(tmp_path, good).exists()


def test_a_record_under_another_name_is_not_believed(tmp_path):
    """Not even with a right digest: its name is where it is looked for, removed and locked."""
    record = a_run(tmp_path)
    facts = json.loads(file_of(tmp_path, record).read_bytes())
    facts["id"] = "../../x"
    del facts["check"]
    facts["check"] = digest_bytes(canonical(facts))
    (tmp_path / "runs" / "x.json").write_bytes(canonical(facts))
    found, unreadable = runs(tmp_path)
    assert [r.id for r in found] == [record.id] and list(unreadable) == ["x.json"]


def test_a_beginning_of_two_ids_is_none(tmp_path):
    first, second = a_run(tmp_path), a_run(tmp_path)
    assert run_of(tmp_path, first.id).id == first.id
    with pytest.raises(InputError, match="2 runs begin so"):
        run_of(tmp_path, os.path.commonprefix([first.id, second.id]))
