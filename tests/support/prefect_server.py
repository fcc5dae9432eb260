"""A Prefect server of its own for tests and benchmarks, with a home of its own; it ends with the block."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.support.waiting import POLL_S, wait_for

PREFECT = [str(Path(sys.executable).with_name("prefect"))]
STARTS_S = 180
ANSWERS_S = 120
"""A busy machine is slow: ten were too few for a server beside two test processes and a training."""
PORTS = 5
"""Ports that are tried: between asking for a free one and the server's taking it another program may."""


@contextmanager
def prefect_server(home: Path) -> Iterator[dict[str, str]]:
    """A running server whose log is `server.log` in `home`; yields what its clients' environment needs besides."""
    home.mkdir(parents=True, exist_ok=True)
    server, client = _started(home, PORTS)
    try:
        yield client
    finally:
        server.terminate()
        server.wait(60)


def _started(home: Path, tries: int) -> tuple[subprocess.Popen, dict[str, str]]:
    """A server that answers, on a port that was free a moment ago, and its clients' environment."""
    port = _free_port()
    client = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
    }
    own = {name: value for name, value in {**os.environ, **client}.items() if name != "PREFECT_API_URL"}
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with open(home / "server.log", "wb") as log:
        server = subprocess.Popen(command, env=own, stdout=log, stderr=log)
    try:
        wait_for(lambda: server.poll() is not None or _healthy(client), STARTS_S)
    except BaseException:
        server.kill()
        server.wait()
        raise
    if server.poll() is None:
        return server, client
    told = (home / "server.log").read_text(errors="replace")
    assert "in use" in told and tries > 1, told[-2000:]
    return _started(home, tries - 1)


def api(environment: Mapping[str, str], path: str, body: dict | None = None):
    """What the server answers, decoded. AssertionError: what it said instead, or what its log ends with.

    Asked again, as Prefect's own client does, where it says that it is busy (503: its database was locked).
    """
    deadline = time.monotonic() + ANSWERS_S
    while True:
        try:
            return _answer(environment, path, body, ANSWERS_S)
        except HTTPError as refused:
            if refused.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                raise AssertionError(f"{path}: {refused}: {refused.read()[:2000]!r}") from refused
            time.sleep(POLL_S)
        except OSError as silence:
            log = Path(environment["PREFECT_HOME"], "server.log")
            raise AssertionError(f"{path}: {silence}\n{log.read_text(errors='replace')[-3000:]}") from silence


def _healthy(environment: Mapping[str, str]) -> bool:
    try:
        return _answer(environment, "health", None, 10) is True
    except OSError:
        return False


def _answer(environment: Mapping[str, str], path: str, body: dict | None, seconds: float):
    request = Request(
        f"{environment['PREFECT_API_URL']}/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urlopen(request, timeout=seconds) as answer:
        return json.loads(answer.read() or b"null")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
