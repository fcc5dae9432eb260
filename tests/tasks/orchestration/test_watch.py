"""Looking and telling: a change is told once, when two looks in a row saw it. Real plans; the event is caught."""

import json

import pytest

from storage.sample.layout import write_sample
from tasks.engine.run import RunRequest
from tasks.orchestration import watch


@pytest.fixture
def told(monkeypatch):
    found = []
    monkeypatch.setattr(watch, "emit_event", lambda event, **more: found.append((event, more)))
    return found


@pytest.fixture
def request_(tmp_path):
    write_sample(tmp_path / "raw", media=False, dialogues=2, turns=4)
    return RunRequest(profile="tiny", raw=str(tmp_path / "raw"), store=str(tmp_path / "store"))


def test_a_change_is_told_once_when_two_looks_saw_it(request_, told, tmp_path):
    assert watch.emit_what_changed(request_).endswith("told if the next look sees the same")
    assert told == []
    line = watch.emit_what_changed(request_)
    assert line == "utterances 3 of 3 items (first run): told"
    ((event, more),) = told
    assert event == "empamba.stale" and more["resource"]["prefect.resource.id"].startswith("empamba.store.")
    assert more["payload"]["stages"] == [{"stage": "utterances", "items": 3, "reasons": ["first run"]}]
    assert watch.emit_what_changed(request_) == "what is stale was told before"
    # A dataset that is still being copied: every look sees another one.
    (table,) = (tmp_path / "raw").rglob("dev_sent_emo.csv")
    for text in ("one", "another"):
        table.write_text(table.read_text().replace("\n", f"{text}\n", 2))
        assert "told if the next look" in watch.emit_what_changed(request_)
    assert len(told) == 1
    assert watch.emit_what_changed(request_).endswith(": told") and len(told) == 2


def test_a_running_run_is_left_to_end(request_, told):
    with request_.recorded() as note:
        assert (
            watch.emit_what_changed(request_)
            == f"run {note.record.id} is at work: looked at once it has ended"
        )
    assert told == []


def test_what_was_seen_may_be_lost(request_, told, tmp_path):
    for kept in (b"", b"[]", json.dumps({"seen": 1}).encode()):
        (tmp_path / "store").mkdir(exist_ok=True)
        (tmp_path / "store" / watch.SEEN).write_bytes(kept)
        assert "told if the next look" in watch.emit_what_changed(request_)
    assert told == []
