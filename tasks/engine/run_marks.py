"""Which flow runs of a store are alive: each one's process holds the kernel lock of a file named after it.

A process that ends in any way releases its lock and leaves the file: its flow run is dead, whatever the server
believes. A run that lives cannot be taken for one, since its lock is taken before anybody may look. Kernel locks do
not reach other machines, so a mark is judged on its own machine only. Knows nothing of Prefect.
"""

from __future__ import annotations

import fcntl
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.store import Store

PREFIX = "flow-run-"
GONE = "Its process has gone without a word: killed, or the machine was."
"""What is told of a dead one."""


@contextmanager
def marked(store: Store, flow_run: str, server: str) -> Iterator[None]:
    """Within the block the flow run is marked as alive. server: the one it was reported to."""
    path = _folder(store) / f"{PREFIX}{flow_run}"
    with store.lock("flow-runs"):
        file = open(path, "a+")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps({"machine": socket.gethostname(), "server": server}))
        file.flush()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def dead(store: Store, server: str) -> list[str]:
    """The flow runs reported to this server from this machine whose process ended without saying so; each is returned
    once.
    """
    found = []
    with store.lock("flow-runs"):
        for path in sorted(_folder(store).glob(f"{PREFIX}*")):
            with open(path) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if _parsed(file.read()) == {"machine": socket.gethostname(), "server": server}:
                    found.append(path.name.removeprefix(PREFIX))
                    path.unlink()
    return found


def _parsed(text: str) -> dict | None:
    try:
        return json.loads(text)
    except ValueError:
        return None  # its process went before it had written


def _folder(store: Store) -> Path:
    return store.root / "locks"
