"""People who take part in a study over the network, as a browser's script does it, and a server for them that can be killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.command_line import ROOT, environment

QUESTIONS = ("semantics", "empathy")


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[str]:
    """The study's address, served by the command itself until the end of the block."""
    process, address = start(folder, port)
    try:
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)


def start(folder: Path, port: int = 0) -> tuple[subprocess.Popen, str]:
    """The command in a process of its own, once it listens; and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "study", "serve", str(folder), "--port", str(port)],
        cwd=ROOT,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.match(r"(http://[^/]+)/", line)
    if found is None:
        process.kill()
        raise AssertionError(line + process.communicate()[1])
    return process, found.group(1)


def client(address: str) -> httpx.Client:
    return httpx.Client(base_url=address, follow_redirects=False, timeout=30, trust_env=False)


def begin(http: httpx.Client, token: str) -> None:
    answer = http.post(f"/s/{token}", data={"understood": "each", "agree": "yes"})
    assert answer.status_code == 303 and answer.headers["location"] == f"/s/{token}/1", answer.text


def replies_of(page: str) -> list[str]:
    """The texts of the replies, in their order, as they stand in the page's source."""
    return re.findall(r'<blockquote class="said" id="text-\d+"[^>]*>(.*?)</blockquote>', page, re.DOTALL)


def click(http: httpx.Client, token: str, number: int, reply: int, question: str, value: int, name: str):
    body = {"reply": reply, "question": question, "value": value, "click": name, "after_ms": 5}
    return http.post(f"/s/{token}/{number}/judge", json=body)


def judge_all(
    http: httpx.Client, token: str, value: Callable[[int, str, str], int], items: range | None = None
) -> int:
    """Every question of the items (numbers from 1; all), by clicks; returns how many. value(item's number, reply's text,
    question)."""
    clicks = 0
    for number in items or range(1, 1000):
        page = http.get(f"/s/{token}/{number}")
        if page.status_code == 404:
            break
        for place, text in enumerate(replies_of(page.text)):
            for question in QUESTIONS:
                said = value(number, text, question)
                answer = click(http, token, number, place, question, said, f"{number}-{place}-{question}-1")
                assert answer.status_code == 204, answer.text
                clicks += 1
        sent = http.post(f"/s/{token}/{number}", content=b"")
        assert sent.status_code == 303, sent.text
        if sent.headers["location"].endswith("/done"):
            break
    return clicks
