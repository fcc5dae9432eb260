"""What a task run leaves with Prefect while it works, without a server."""

import logging

import pytest

from tasks.orchestration import artifacts


@pytest.fixture
def left(monkeypatch, caplog):
    """Progress artifacts as they are written: [(percent, description)]; the run's log is `caplog`."""
    found = []

    def write(progress, description, artifact_id=None):
        found.append((progress, description))
        return "one"

    monkeypatch.setattr(artifacts, "create_progress_artifact", write)
    monkeypatch.setattr(artifacts, "update_progress_artifact", write)
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("tests.run"))
    caplog.set_level(logging.INFO)
    return found


def test_a_trainings_losses_reach_the_runs_log_and_its_artifact(left, caplog):
    """At a bounded rate: the first step, the last, and between them what comes seconds apart."""
    with artifacts.progress_artifact("epo") as record:
        for step in (1, 2, 3, 4):
            record(step, 4, {"step": step, "loss": 1 / step, "accuracy": 0.5})
    assert left == [(25.0, "epo: loss 1.000 accuracy 0.500"), (100.0, "epo: loss 0.250 accuracy 0.500")]
    assert caplog.messages == [
        "epo: 1 of 4 loss 1.000 accuracy 0.500",
        "epo: 4 of 4 loss 0.250 accuracy 0.500",
    ]


def test_what_has_no_figures_has_no_line(left, caplog, monkeypatch):
    monkeypatch.setattr(artifacts, "PROGRESS_EVERY_S", -1.0)
    with artifacts.progress_artifact("features [meld]") as record:
        for step in (1, 2):
            record(step, 2, {})
    assert left == [(50.0, "features [meld]"), (100.0, "features [meld]")]
    assert caplog.messages == []


def test_what_is_done_at_once_leaves_no_artifact(left):
    for figures in ({}, {"loss": 1.0}):
        with artifacts.progress_artifact("utterances [meld]") as record:
            record(2, 2, figures)
    assert left == [(100.0, "utterances [meld]: loss 1.000")]
