"""A Ray cluster of nodes with one core each, on this machine; it ends with the block.

All but the head say that they have two GPUs, whether they have or not: what Ray gives out is what it was told.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tasks.engine.ray_pool import connected
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
# A token that Ray once left in the user's home would have half of a later cluster ask for it.
os.environ["RAY_AUTH_MODE"] = "disabled"
RAY = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--memory=4000000000",
       "--object-store-memory=80000000", "--disable-usage-stats")  # fmt: skip


@contextmanager
def ray_cluster(*nodes: dict[str, str]) -> Iterator[str]:
    """The address of its head, once all nodes have joined; this process is connected to it.

    nodes: what the environment of each has besides this one's; two that have nothing, if none are given.
    """
    nodes = nodes or ({}, {})
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        # A socket's path may have 107 characters, so that no test's own folder will do.
        port = _free_port()
        head = f"127.0.0.1:{port}"
        started = [
            _node(nodes[0], "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")
        ]
        try:
            wait_for(lambda: _listens(port) or started[0].poll() is not None, 120)
            started += [_node(more, f"--address={head}", "--num-gpus=2") for more in nodes[1:]]
            ray = connected(head)
            try:
                wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == len(nodes), 120)
                yield head
            finally:
                ray.shutdown()  # before its head is gone: Ray ends a process whose head is
        finally:
            for process in started:
                _end(process)


def _end(process: subprocess.Popen) -> None:
    """At once, with all that it has started; asked to end, a head takes half a minute."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    for below in family:
        with suppress(psutil.NoSuchProcess):
            below.kill()
    psutil.wait_procs(family, timeout=60)


def _node(more: dict[str, str], *options: str) -> subprocess.Popen:
    known = [str(ROOT), *filter(None, [more.get("PYTHONPATH"), os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **more, "PYTHONPATH": os.pathsep.join(known)}
    return subprocess.Popen(
        [*RAY, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _listens(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False
