"""A server that ends with its starter, and whose end its starter learns; the server here does nothing but answer."""

import os
import queue
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasks.engine.own_server import OwnServer, ServerFailed

HERE = Path(__file__).resolve()
ROOT = HERE.parents[3]
APPLICATION = f"{HERE.stem}:application"


def application():
    """An ASGI application that answers everything with "true"."""

    async def answer(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"true"})

    return answer


def broken():
    raise RuntimeError("no such database")


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(ROOT)])}


@pytest.fixture
def started(tmp_path, environment):
    """start(): a running server and the queue of what it was told of its end."""
    servers = []

    def start() -> tuple[OwnServer, queue.Queue]:
        server, lost = OwnServer(APPLICATION, tmp_path), queue.Queue()
        servers.append(server)
        server.start(environment, 120, lost.put)
        return server, lost

    yield start
    for server in servers:
        server.stop()


def test_servers_at_once_have_a_database_each_and_one_after_the_other_the_same(started):
    (first, _), (second, _) = started(), started()
    assert [server.database.name for server in (first, second)] == ["0.db", "1.db"]
    first.stop()
    assert started()[0].database.name == "0.db"


def test_its_death_is_told_and_its_end_is_not(started):
    server, lost = started()
    server._process.kill()
    assert lost.get(timeout=20).startswith("the run's own server was killed by signal 9 (log: ")
    other, silent = started()
    other.stop()
    assert silent.empty()


def test_a_server_that_does_not_start_is_one_line_of_its_log(tmp_path, environment):
    server = OwnServer(f"{HERE.stem}:broken", tmp_path)
    with pytest.raises(ServerFailed, match="did not start: .*no such database"):
        server.start(environment, 120, lambda why: None)


def test_a_killed_starter_takes_its_server_with_it(tmp_path, environment):
    program = (
        "import os, sys; from pathlib import Path; from tasks.engine.own_server import OwnServer\n"
        "server = OwnServer(sys.argv[2], Path(sys.argv[1]))\n"
        "server.start(dict(os.environ), 120, print); print(server._process.pid, flush=True); sys.stdin.read()\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), APPLICATION],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT,
    )  # fmt: skip
    server = psutil.Process(int(starter.stdout.readline()))
    assert "uvicorn" in server.cmdline()
    starter.kill()
    starter.communicate()
    assert psutil.wait_procs([server], timeout=20)[1] == []
