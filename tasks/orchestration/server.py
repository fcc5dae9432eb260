"""A Prefect server of a command's own, where none is configured. Knows nothing of flows or stages."""

from __future__ import annotations

import atexit
import logging
import os
from pathlib import Path

from prefect import Flow
from prefect.context import refresh_global_settings_context
from prefect.exceptions import CancelledRun
from prefect.settings import get_current_settings

from tasks.engine.own_server import OwnServer
from tasks.engine.stopping import Stopped, orchestrator_lost

SERVER = "prefect.server.api.server:create_app"
OWN = "EMPAMBA_OWN_SERVER"
"""In the environment: the database of this process's own server. Its address is another every time."""


def run_from_shell(flow: Flow, *arguments):
    """Run a flow from a command: where no server is configured, beside one of its own. Raises Stopped if cancelled."""
    _serve_if_alone()
    if os.environ.get("PREFECT_LOGGING_LEVEL") == "CRITICAL":  # the run's display prints the same lines
        for name in ("prefect.flow_runs", "prefect.task_runs"):
            logging.getLogger(name).propagate = False
    try:
        return flow(*arguments)
    except CancelledRun as cancelled:
        raise Stopped(str(cancelled)) from None


def _serve_if_alone() -> None:
    """Where no server is configured, start one that lives as long as this process."""
    settings = get_current_settings()
    if settings.api.url is not None:
        return
    server = OwnServer(SERVER, Path(settings.home) / "empamba")
    atexit.register(server.stop)  # after Prefect has sent what it has not sent yet
    environment = {
        **os.environ,
        **settings.to_environment_variables(exclude_unset=True),
        "PREFECT_LOGGING_LEVEL": "WARNING",  # into its log file, whatever the run itself prints
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    # A database that the user has named is used; without one each run at once gets another.
    environment.setdefault("PREFECT_SERVER_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{server.database}")
    seconds = settings.server.ephemeral.startup_timeout_seconds
    address = server.start(environment, seconds, orchestrator_lost)
    os.environ["PREFECT_API_URL"] = f"{address}/api"
    os.environ[OWN] = str(server.database)
    refresh_global_settings_context()


def server_name() -> str:
    """What tells one server from another over several runs: the database of this process's own, or an address."""
    return os.environ.get(OWN) or str(get_current_settings().api.url)
