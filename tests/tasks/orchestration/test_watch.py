"""Looking and telling: a change is told once, when two looks in a row saw it. Real plans; the event is caught."""

import json
import shutil
import uuid

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Failed

from flows.watch import watch as flow
from storage.errors import InputError
from storage.sample.layout import write_sample
from tasks.engine.run import RunRequest
from tasks.orchestration import watch
from tasks.orchestration.places import PLACES
from tests.support.webhook import webhook


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


def looked(request: RunRequest) -> None:
    """A look, whose failure the flow's hook is called with as Prefect calls it."""
    run = FlowRun(
        flow_id=uuid.uuid4(), name="quiet-owl", parameters={"request": request.model_dump(mode="json")}
    )
    try:
        watch.emit_what_changed(request)
    except InputError as error:
        (hook,) = flow.on_failure_hooks
        hook(flow, run, Failed(message=str(error)))


def test_a_failure_is_told_once_and_so_is_that_it_is_over(request_, told, tmp_path, monkeypatch):
    """Real failures, to a real webhook: the raw data is gone for three looks, then there and broken, then whole."""
    raw, away = tmp_path / "raw", tmp_path / "away"
    monkeypatch.setenv(PLACES, "json://127.0.0.1:9/nobody")
    shutil.move(raw, away)
    looked(request_)  # reaches nobody, and so is told by the next
    with webhook() as (place, posted):
        # A place that is out of order has no other one told again and again.
        monkeypatch.setenv(PLACES, f"{place} json://127.0.0.1:9/nobody")
        for _ in range(3):
            looked(request_)
        (first,) = posted
        assert first["title"] == "watch quiet-owl: Failed" and f"{raw}: no such folder" in first["message"]
        raw.mkdir()
        for _ in range(2):
            looked(request_)
        assert len(posted) == 2 and "no such folder" not in posted[1]["message"]
        raw.rmdir()
        shutil.move(away, raw)
        for _ in range(3):
            looked(request_)
        assert [one["title"] for one in posted[2:]] == ["watch: it looks again"]
        assert posted[1]["message"] in posted[2]["message"]
        assert len(told) == 1  # the change, by the second look that saw it
        shutil.move(raw, away)
        looked(request_)
        assert len(posted) == 4 and posted[3]["message"] == first["message"]


def test_a_crash_of_a_look_whose_request_is_none_is_told(monkeypatch):
    (hook,) = flow.on_crashed_hooks
    with webhook() as (place, posted):
        monkeypatch.setenv(PLACES, place)
        hook(flow, FlowRun(flow_id=uuid.uuid4(), parameters={}), Crashed(message="exited with -9"))
    assert [one["message"] for one in posted] == ["exited with -9"]
