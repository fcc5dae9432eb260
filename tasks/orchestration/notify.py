"""Telling people that a run failed or crashed, where they asked for it: a webhook, Slack, e-mail, by apprise.

EMPAMBA_NOTIFY, in the environment of what runs the flows, or the file of `ops up` (places.py) names the places, with a space
between two, as https://appriseit.com/services/ lists them: `json://HOST:PORT/PATH`, Slack's `https://hooks.slack.com/services/…`,
`mailtos://USER:PASSWORD@HOST`.
They hold secrets and so are no setting of a run, which a report would show. Knows nothing of stages.
"""

from __future__ import annotations

import logging

from prefect import Flow, State, get_run_logger
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import MissingContextError

from tasks.orchestration.bounded import short
from tasks.orchestration.places import PLACES, places

LOG = logging.getLogger(__name__)


def tell_failure(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """A flow's hook on failure and on a crash; Prefect passes the three by these names. Only the outermost flow tells."""
    if flow_run.parent_task_run_id is None:
        send(f"{flow.name} {flow_run.name}: {state.name}", state.message or "no message")


def send(title: str, body: str, to: str | None = None, kind: str = "failure") -> bool:
    """Whether anybody was told. What fails is a line of the log, never an error.

    to: the places; None: those of the environment or of the machine. kind: "failure" or "success", by which some places
    colour it.
    """
    asked = places() if to is None else to.split()
    if not asked:
        return False
    import apprise  # only where something failed: it takes as long to import as a plan does to make

    text = apprise.NotifyFormat.TEXT  # an error's words are no Markdown, and no HTML of an e-mail
    told: list[bool] = []
    refused: list[int] = []
    for number, place in enumerate(asked, 1):
        one = apprise.Apprise()
        if not one.add(place):
            refused.append(number)
            continue
        told.append(bool(one.notify(title=title, body=short(body, 2000), notify_type=kind, body_format=text)))
    if refused or not all(told):
        which = f"; it cannot read place {', '.join(map(str, refused))}" if refused else ""
        _log().warning("%s: it could not be told everywhere: %s%s", PLACES, title, which)
    return any(told)


def _log() -> logging.Logger | logging.LoggerAdapter:
    try:
        return get_run_logger()
    except MissingContextError:  # a hook that the worker calls for a process that has gone
        return LOG
