"""Prefect's defaults for commands that start it, to be set before it is imported."""

from __future__ import annotations

import logging
import os

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    # What a run says goes to its server all the same (tasks/orchestration/server.py keeps it off the terminal).
    "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",
    "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
}


def quiet_prefect() -> None:
    """Defaults for a run without a server; what the user has set stays."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # On a busy machine this logger says that the last events are still being sent; its name is not below "prefect".
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)
