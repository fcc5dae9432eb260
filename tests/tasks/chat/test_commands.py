"""`chat --web` and `serve` as a shell starts them: answered once, and ended by Ctrl-C with a line that is true."""

import re
import signal
import subprocess
from contextlib import contextmanager

import httpx
import pytest

from tests.support.command_line import ROOT, environment
from tests.support.shell import as_from_a_terminal, last_line
from tests.support.talking import TALKING

PATIENCE_S = 120


@contextmanager
def started(folder, *arguments):
    """The address that it tells. On leaving it is sent Ctrl-C, and must end as that says."""
    process = subprocess.Popen(
        [*TALKING, str(folder / "parts"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment(folder),
        preexec_fn=as_from_a_terminal,
    )  # fmt: skip
    told = []
    try:
        line = process.stdout.readline()
        found = re.match(r"(http://[0-9.]+:\d+\S*)  ?", line)
        assert found, line + process.communicate(timeout=PATIENCE_S)[1]
        yield found[1], told
        process.send_signal(signal.SIGINT)
        told.append(process.communicate(timeout=PATIENCE_S)[1])
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and "Traceback" not in told[0], told[0]
    command = " ".join(["empamba", *arguments])
    assert last_line(told[0]) == (
        f"stopped by SIGINT; `{command}` begins anew, without the conversations of before"
    )


@pytest.mark.slow
def test_a_page_that_others_may_reach(tmp_path):
    arguments = ("chat", "--web", "--host", "0.0.0.0", "--max-new-tokens", "4")
    with httpx.Client(timeout=60) as page, started(tmp_path, *arguments) as (url, told):
        page.base_url = url.replace("0.0.0.0", "127.0.0.1")
        room = f"/conversations/{page.post('/conversations').json()['id']}"
        assert page.post(f"{room}/turns", json={"text": "Good evening."}).json() == {}
        (turn,) = page.get(f"{room}/saved").json()["turns"]
        lines = page.send(page.build_request("GET", f"{room}/events"), stream=True).iter_lines()
        assert next(lines).startswith("id: ")  # a page that listens does not keep it from ending
        assert turn["answers"][0]["rung"] == "5-epo" and turn["answers"][0]["ended"]
    assert (
        "listening on 0.0.0.0: whoever reaches this machine can talk to it; nobody is asked who they are"
        in told[0]
    )


@pytest.mark.slow
def test_an_endpoint_on_this_machine(tmp_path):
    with started(tmp_path, "serve", "--rung", "3", "--port", "0") as (url, told):
        body = {"messages": [{"role": "user", "content": "Well?"}], "max_tokens": 2}
        answer = httpx.post(f"{url.split('/v1')[0]}/v1/chat/completions", json=body, timeout=60).json()
        assert answer["model"] == "3-mc" and answer["usage"]["completion_tokens"] in (1, 2)
    assert "listening on" not in told[0]
