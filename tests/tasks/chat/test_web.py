"""The page's server over real HTTP: a turn as it comes, what a lost connection misses, and what is turned away."""

import json
import socket
import threading
import time

import httpx
import pytest

from model.generation.settings import Sampling
from tasks.chat.rooms import Rooms
from tasks.chat.web import web_app
from tests.support.clips import write_clip
from tests.support.served import served
from tests.support.waiting import wait_for

GREEDY = Sampling(temperature=0, max_new_tokens=8)


@pytest.fixture(scope="module")
def app(engine, found):
    return web_app(engine, found, "3-mc", GREEDY, "some-run", "127.0.0.1")


@pytest.fixture(scope="module")
def page(app):
    with served(app) as url:
        with httpx.Client(base_url=url, timeout=60) as client:
            yield client


@pytest.fixture
def room(page):
    return f"/conversations/{page.post('/conversations').json()['id']}"


class Listening:
    """What a page is told from `after` on, until `stop`."""

    def __init__(self, page, room, after=0, headers=None):
        self.changes, self.latest = [], threading.Event()
        self._arguments = page, f"{room}/events?after={after}", headers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self):
        page, address, headers = self._arguments
        with page.stream("GET", address, headers=headers) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    self.changes.append(json.loads(line[6:]))
                    self.latest.set()
                if self._stop.is_set():
                    return

    def first(self) -> dict:
        assert self.latest.wait(60)
        return self.changes[0]

    def stop(self, page, room):
        self._stop.set()
        page.post(f"{room}/rung", json={"rung": "3-mc"})  # something to hear
        self._thread.join(60)
        return self.changes


def test_a_turn_is_told_as_it_comes_and_what_was_missed_is_told_again(page, room, app):
    listening = Listening(page, room)
    listening.first()
    assert page.post(f"{room}/turns", json={"text": "Good evening."}).json() == {}
    wait_for(lambda: any(change["turns"].get("0", {}).get("history") for change in [*listening.changes]))
    changes = listening.stop(page, room)
    shown = [change["turns"]["0"] for change in changes if change["turns"]]
    texts = [turn["answers"][0]["text"] for turn in shown]
    assert len(set(texts)) > 2 and shown[-1]["history"]["utterances"] == 2
    assert all(later.startswith(text) for text, later in zip(texts, texts[1:], strict=False))
    seen = changes[-1]["version"]
    page.post(f"{room}/turns", json={"text": "Are you there?"})
    again = Listening(page, room, after=seen)
    missed = again.first()
    again.stop(page, room)
    assert missed["turns"].keys() == {"1"} and missed["count"] == 2
    # A browser that tries again by itself asks by its old address, and says what it has seen in a header.
    by_header = Listening(page, room, after=0, headers={"Last-Event-ID": str(seen)})
    assert by_header.first()["turns"].keys() == {"1"}
    by_header.stop(page, room)
    whole = Listening(page, room, after=10**6)  # a page of a server before this one
    assert whole.first()["turns"].keys() == {"0", "1"}
    whole.stop(page, room)
    until = time.monotonic() + 30
    while app.state.rooms.find(room.split("/")[-1]).listeners:  # a page that has gone leaves nothing behind
        assert time.monotonic() < until
        time.sleep(0.02)
    saved = page.get(f"{room}/saved").json()
    assert saved["run"] == "some-run" and [t["text"] for t in saved["turns"]] == [
        "Good evening.",
        "Are you there?",
    ]


def test_a_clip_goes_with_a_turn(page, room, tmp_path):
    clip = page.post(f"{room}/clips", content=write_clip(tmp_path / "a.mp4").read_bytes()).json()
    assert clip["heard"] and clip["seen"] and clip["notes"] == []
    assert page.post(f"{room}/turns", json={"text": "See?", "clip": clip["id"]}).status_code == 200
    turn = page.get(f"{room}/saved").json()["turns"][0]
    assert turn["clip"]["seen"] and len(turn["emotion"]) == 7
    assert "3-mc is not given clips" in turn["notes"][0]
    gone = page.post(f"{room}/turns", json={"text": "See?", "clip": clip["id"]})
    assert gone.status_code == 400 and gone.json() == {"error": "the clip is gone; record or choose it again"}


def test_what_is_too_large_is_turned_away_before_it_is_read(page, room):
    """Two gigabytes are announced and not sent: the answer comes first."""
    host, port = page.base_url.host, page.base_url.port
    with socket.create_connection((host, port), timeout=30) as connection:
        head = f"POST {room}/clips HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {2 << 30}\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(1000)

    def endless():
        for _ in range(70):
            yield b"x" * (1 << 20)

    assert page.post(f"{room}/clips", content=endless()).status_code == 413
    assert page.post(f"{room}/turns", content=b"{" * (1 << 20)).status_code == 413
    long = page.post(f"{room}/turns", json={"text": "x" * 40_000})
    assert long.status_code == 400 and "has 40,000 characters" in long.json()["error"]
    nothing = page.post(f"{room}/clips", content=b"no clip")
    assert nothing.status_code == 400 and "corrupt" in nothing.json()["error"]
    assert page.get(f"{room}/saved").json()["turns"] == []


def test_ids_names_and_origins_are_checked(page, room):
    assert len(room.split("/")[-1]) >= 24
    unknown = page.get("/conversations/guessed/saved")
    assert unknown.status_code == 404 and "no such conversation" in unknown.json()["error"]
    assert page.get("/about", headers={"Host": "evil.example"}).status_code == 400
    assert page.post("/conversations", headers={"Origin": "http://evil.example"}).status_code == 403
    assert page.post(f"{room}/rung", json={"rung": "9"}).json()["error"].startswith("no rung '9'")
    assert page.post(f"{room}/turns", json={"text": 3}).status_code == 400
    policy = page.get("/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "<noscript>" in page.get("/").text


def test_who_listens_to_a_conversation_that_goes_is_told(engine, found):
    app = web_app(engine, found, "3-mc", GREEDY, "some-run", "127.0.0.1")
    app.state.rooms.most = 1
    with served(app) as url, httpx.Client(base_url=url, timeout=60) as page:
        room = f"/conversations/{page.post('/conversations').json()['id']}"
        with page.stream("GET", f"{room}/events") as stream:
            lines = stream.iter_lines()
            assert next(lines) == "id: 0"
            page.post("/conversations")
            for line in lines:  # it ends, at once
                assert line != ": alive"
        assert "held too many; begin a new one" in page.get(f"{room}/saved").json()["error"]


def test_held_conversations_are_bounded():
    rooms = Rooms(most=2)
    first, second = rooms.open(None, None), rooms.open(None, None)
    rooms.find(first.name)
    rooms.open(None, None)
    assert rooms.find(first.name) is first
    with pytest.raises(LookupError):
        rooms.find(second.name)
