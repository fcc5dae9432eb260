"""A failure reaches a webhook, a chat and a mailbox: real servers, on this machine."""

import html
import os
import uuid

import pytest
from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed, Failed

from tasks.orchestration.notify import send, tell_failure
from tasks.orchestration.places import PLACES
from tests.support.mailbox import mailbox
from tests.support.webhook import webhook

SLACK = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7"
"""Of the form that Slack gives out; nobody's."""


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


def test_chats_are_told_as_they_ask_for_it(webhook, monkeypatch):
    """Slack's incoming webhook, but for its address, and two ways for what takes the same: a POST of {"text": …}."""
    from apprise.plugins.slack import NotifySlack

    here = os.environ[PLACES].removeprefix("json://")
    monkeypatch.setattr(NotifySlack, "webhook_url", f"http://{here}")
    left_out = "".join(f"&:{name}=" for name in ("title", "version", "attachments", "type"))
    for place in (SLACK, f"mmost://{here}", f"json://{here}?:message=text{left_out}"):
        assert send("refresh MELD: Failed", "epo_2 [all]: <no> loss", place)
    slack, titled, bare = webhook
    (attached,) = slack["attachments"]
    assert (attached["title"], attached["text"]) == ("refresh MELD: Failed", "epo_2 [all]: &lt;no&gt; loss")
    assert titled["text"].split() == "refresh MELD: Failed epo_2 [all]: <no> loss".split()
    assert bare == {"text": "epo_2 [all]: <no> loss"}


def test_an_e_mail_has_the_message_as_it_is():
    with mailbox() as (server, came):
        place = f"mailto://{server}?from=runs@example.org&to=me@example.org"
        assert send("refresh MELD: Failed", "epo_2 [all]: <no> loss", place)
    (message,) = came
    assert message["subject"] == "refresh MELD: Failed"
    assert (message["from"], message["to"]) == ("runs@example.org", "me@example.org")
    plain, page = (message.get_body((kind,)).get_content() for kind in ("plain", "html"))
    assert plain.strip() == "epo_2 [all]: <no> loss"
    assert html.unescape(page).replace("\xa0", " ").strip() == plain.strip() and "<no>" not in page
