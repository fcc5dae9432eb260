"""Weights fetched before a run's first stage, in a process that a stop ends: by a real server and the hub's own client."""

import json
import threading
import time

import pytest

from model.zoo.resolve import is_cached, source_of
from tasks.engine.fetching import Broken, fetch
from tasks.engine.stopping import Stop, Stopped
from tests.support.hub_server import served

NAME, REPOSITORY = "roberta-large", "FacebookAI/roberta-large"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    folder = tmp_path / "hub" / REPOSITORY
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    (folder / "model.safetensors").write_bytes(bytes(200_000))
    with served(tmp_path / "hub") as running:
        for name, value in running.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield running


def test_what_is_fetched_lies_here_and_is_not_asked_for_again(hub):
    assert not is_cached(NAME)
    fetch(NAME, False, Stop())
    assert is_cached(NAME)
    asked = len(hub.asked)
    fetch(NAME, False, Stop())
    assert len(hub.asked) == asked


def test_why_it_did_not_come_is_one_line_and_whether_it_may_another_time(hub):
    hub.refusals[REPOSITORY] = 404
    with pytest.raises(Broken, match=rf"^weights '{NAME}': the hub has no {REPOSITORY}") as gone:
        fetch(NAME, False, Stop())
    assert not gone.value.passes and source_of(NAME).revision in str(gone.value)
    with pytest.raises(Broken, match="connect"):
        fetch(NAME, True, Stop())
    assert not is_cached(NAME)


def test_a_run_that_stops_waits_for_no_weights(hub):
    stop = Stop()
    threading.Timer(0.05, stop.request, ["enough"]).start()
    began = time.monotonic()
    with pytest.raises(Stopped, match="enough"):
        fetch(NAME, False, stop)
    assert time.monotonic() - began < 9
