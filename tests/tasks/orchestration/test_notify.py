"""A failure reaches a webhook: a real one, on this machine."""

import uuid

import pytest
from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Failed

from tasks.orchestration.notify import PLACES, send, tell_failure
from tests.support.webhook import webhook


@pytest.fixture(name="webhook")
def named_webhook(monkeypatch):
    """What was posted to it. EMPAMBA_NOTIFY names it."""
    with webhook() as (place, told):
        monkeypatch.setenv(PLACES, place)
        yield told


@flow
def nightly() -> None: ...


def test_a_failed_flow_is_told_with_its_message(webhook):
    run = FlowRun(flow_id=uuid.uuid4(), name="refresh MELD paper")
    tell_failure(nightly, run, Failed(message="epo [all]: loss is not finite"))
    tell_failure(
        flow=nightly, flow_run=run, state=Crashed(message="exited with -9")
    )  # as the worker calls it
    assert [(one["title"], one["message"]) for one in webhook] == [
        ("nightly refresh MELD paper: Failed", "epo [all]: loss is not finite"),
        ("nightly refresh MELD paper: Crashed", "exited with -9"),
    ]


def test_a_flow_within_another_leaves_it_to_that_one(webhook):
    run = FlowRun(flow_id=uuid.uuid4(), parent_task_run_id=uuid.uuid4())
    tell_failure(nightly, run, Failed(message="epo [all]: loss is not finite"))
    assert webhook == []


def test_nobody_asked_for_and_nobody_there_are_no_errors(webhook, monkeypatch, caplog):
    assert send("a", "b")
    monkeypatch.setenv(PLACES, "json://127.0.0.1:9/nobody nonsense")
    assert not send("a", "b")
    assert "it cannot read place 2" in caplog.text
    monkeypatch.delenv(PLACES)
    assert not send("a", "b")
    assert len(webhook) == 1
