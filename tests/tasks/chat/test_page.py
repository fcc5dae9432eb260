"""The page in a real browser: typing, clips, a lost connection, a reload, and no script at all."""

import json
import re
import threading
from contextlib import contextmanager

import httpx
import pytest

from model.generation.settings import Sampling
from tasks.chat.web import web_app
from tests.support.browser import Browser, needs_a_browser
from tests.support.clips import write_clip
from tests.support.relay import Relay
from tests.support.served import served
from tests.support.waiting import wait_for

pytestmark = needs_a_browser
LAST = "turns.at(-1)"
ENDED = f"turns.length === %d && {LAST}.history !== null"


@pytest.fixture(scope="module")
def tab(engine, found, tmp_path_factory):
    app = web_app(engine, found, "5-epo", Sampling(temperature=0, max_new_tokens=8), "a-run", "127.0.0.1")
    with served(app) as url, Relay(url) as relay, Browser(tmp_path_factory.mktemp("profile")) as page:
        page.url, page.relay, page.behind = relay.url, relay, url
        yield page


def recorded(tab, button):
    """Press it, let a moment pass, and press it again; the clip has been read then."""
    tab.run(f"document.getElementById('{button}').click()")
    tab.until("recorder !== null && recorder.state === 'recording'")
    tab.run("new Promise((done) => setTimeout(done, 1500))")
    tab.run(f"document.getElementById('{button}').click()")
    tab.until("clip !== null")


@pytest.mark.slow
def test_a_conversation_in_a_browser(tab):
    tab.go(tab.url)
    tab.until("document.activeElement.id === 'text' && location.hash.length > 20")
    assert tab.run("document.getElementById('notes').textContent") == "a note"
    tab.type("Hello <b>there</b> 🙂")
    tab.until(ENDED % 1)
    shown = tab.run("[...document.querySelectorAll('.bubble')].map((b) => b.textContent)")
    assert shown[0] == "Hello <b>there</b> 🙂" and shown[1].startswith("5-epo")
    assert tab.run("document.querySelectorAll('[role=meter]').length") == 7
    assert tab.run("document.querySelector('.dots').textContent.length") in (1, 2)

    # A clip from the camera and the microphone, which the browser makes up.
    recorded(tab, "film")
    assert tab.run("clip.seen && clip.heard")
    tab.type("What do you see?")
    tab.until(ENDED % 2)
    assert tab.run(f"{LAST}.clip.seen && document.getElementById('clip').hidden")

    # Two answers side by side.
    tab.run(
        "(() => { const s = document.getElementById('beside'); s.value = '1-llm'; s.dispatchEvent(new Event('change')); })()"
    )
    tab.run("new Promise((done) => setTimeout(done, 300))")
    tab.type("And both of you?")
    tab.until(ENDED % 3)
    assert tab.run(f"{LAST}.answers.map((a) => a.rung)") == ["5-epo", "1-llm"]

    # What is said while the connection is cut is there once it is mended, and nothing is told twice.
    problems = [*tab.problems]
    tab.relay.cut()
    tab.until("!document.getElementById('connection').hidden")
    room = f"{tab.behind}/conversations/{tab.run('location.hash').lstrip('#')}"
    httpx.post(f"{room}/turns", json={"text": "Unheard."}, timeout=60).raise_for_status()
    assert tab.run("turns.length") == 3
    tab.relay.asked = b""
    tab.relay.mend()
    tab.until(ENDED % 4)
    tab.until("document.getElementById('connection').hidden")
    assert b"last-event-id: " in tab.relay.asked.lower()
    tab.problems[:] = problems  # that nothing was reached is what was asked for
    before = tab.run("JSON.stringify(turns)")
    tab.ask("Page.reload")
    tab.until("document.readyState === 'complete' && typeof turns !== 'undefined' && turns.length === 4")
    assert tab.run("JSON.stringify(turns)") == before
    assert tab.run("document.querySelectorAll('.person').length") == 4

    tab.run("document.getElementById('recall').click()")
    tab.until("!document.getElementById('recalled').hidden")
    assert tab.run("document.querySelectorAll('#recalled tbody tr').length") >= 5
    tab.run("document.getElementById('begin').click()")
    tab.until("turns.length === 0 && document.querySelectorAll('.turn').length === 0")
    assert tab.problems == []


@pytest.mark.slow
def test_a_voice_and_a_file_are_clips_too(tab, tmp_path):
    tab.go(f"{tab.url}/?clips")
    tab.until("document.activeElement.id === 'text' && location.hash.length > 20")
    recorded(tab, "voice")
    assert tab.run("clip.heard && !clip.seen")
    tab.run("document.getElementById('drop').click()")
    assert tab.run("clip === null && document.getElementById('clip').hidden")
    recorded(tab, "voice")
    tab.run("document.getElementById('text').focus()")
    tab.type("Do you hear me?")
    tab.until(ENDED % 1)
    assert tab.run(f"{LAST}.clip.heard && !{LAST}.clip.seen")

    def choose(path):
        root = tab.ask("DOM.getDocument")["root"]["nodeId"]
        field = tab.ask("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        tab.ask("DOM.setFileInputFiles", nodeId=field, files=[str(path)])

    choose(write_clip(tmp_path / "a.mp4"))
    tab.until("clip !== null")
    told = tab.run("document.getElementById('about-clip').textContent")
    assert re.fullmatch(r"1(\.\d+)? s, heard and seen; now type what is said", told)
    tab.type("And do you see this?")
    tab.until(ENDED % 2)
    assert tab.run(f"{LAST}.clip.heard && {LAST}.clip.seen")
    (tmp_path / "none.mp4").write_text("no clip at all")
    choose(tmp_path / "none.mp4")
    tab.until("/corrupt/.test(document.getElementById('problem').textContent)")
    assert tab.run("clip === null && document.getElementById('clip').hidden")


@pytest.mark.slow
def test_a_turn_that_is_too_long_stays_in_the_box(tab):
    tab.go(f"{tab.url}/?long")
    tab.until("document.activeElement.id === 'text' && location.hash.length > 20")
    tab.run("document.getElementById('text').value = 'x'.repeat(99_999) + '🙂'")
    tab.press("Enter")
    tab.until("!document.getElementById('problem').hidden")
    told = "the turn has 100,000 characters; say it in at most 4,000, or in several turns"
    assert tab.run("document.getElementById('problem').textContent") == told
    assert tab.run("turns.length === 0 && [...document.getElementById('text').value].length === 100_000")
    tab.run("document.getElementById('text').value = 'Then I say less.'")
    tab.press("Enter")
    tab.until("turns.length === 1 && document.getElementById('problem').hidden")


@contextmanager
def held(engine):
    """The engine does nothing else until the block is left, or what is given was called."""
    free = threading.Event()
    engine.call(lambda models: free.wait(300))
    try:
        yield free.set
    finally:
        free.set()


SHOWN = "[...document.querySelectorAll('.turn')].map((turn) => turn.querySelector('.person').textContent)"
IN_THE_BOX = "document.getElementById('text').value"


@pytest.mark.slow
def test_what_was_sent_is_shown_at_once_and_can_be_stopped(tab, engine):
    tab.go(f"{tab.url}/?sent")
    tab.until("document.activeElement.id === 'text' && location.hash.length > 20")
    with held(engine):
        tab.type("Are you there?")
        tab.until("document.getElementById('send').hidden && !document.getElementById('stop').hidden")
        assert tab.run(SHOWN) == ["Are you there?"] and tab.run("turns.length") == 0
        assert tab.run("document.querySelectorAll('.waiting').length") == 1
        tab.type("Well?")  # it stays where it is
        assert tab.run(IN_THE_BOX) == "Well?" and tab.run("document.getElementById('problem').hidden")
        wait_for(lambda: not engine._jobs.empty())  # the server has begun with it
        tab.run("posted(here('stop'))")
    tab.until(ENDED % 1)
    assert tab.run(f"{LAST}.answers[0].ended") == "stopped" and tab.run(SHOWN) == ["Are you there?"]
    assert tab.run("document.getElementById('stop').hidden")


@pytest.mark.slow
def test_what_was_said_as_the_connection_went_is_not_in_the_box(tab, engine):
    def said(lines, told):
        """Say it, lose the connection before or after the page is told of it, and find it."""
        count = tab.run("turns.length") + 1
        tab.run(f"{IN_THE_BOX} = {json.dumps(lines)}")
        with held(engine) as go_on:
            tab.press("Enter")
            wait_for(lambda: not engine._jobs.empty())
            if told:
                with held(engine):  # between the prompt and the reply
                    go_on()
                    tab.until(f"turns.length === {count}")
                    tab.relay.cut()
                    tab.until("!document.getElementById('connection').hidden")
                    assert tab.run(IN_THE_BOX) == ""
            else:
                tab.relay.cut()
                tab.until(f"{IN_THE_BOX} === {json.dumps(lines)}")  # nobody knows whether it was said
                assert len(tab.run(SHOWN)) == count - 1
        tab.relay.mend()
        tab.until(ENDED % count)
        assert tab.run(IN_THE_BOX) == "" and len(tab.run(SHOWN)) == count
        assert tab.run(f"{LAST}.text") == " ".join(lines.split())

    tab.go(f"{tab.url}/?lost")
    tab.until("document.activeElement.id === 'text' && location.hash.length > 20")
    said("One line\nand another", told=True)
    said("And these\ntwo", told=False)


@pytest.mark.slow
def test_without_scripts_it_says_so(tab):
    """What stands in <noscript> is elements, with a place on the page, only where scripts are off."""

    def height():
        try:
            root = tab.ask("DOM.getDocument")["root"]["nodeId"]
            line = tab.ask("DOM.querySelector", nodeId=root, selector="noscript p")["nodeId"]
            return line and tab.ask("DOM.getBoxModel", nodeId=line)["model"]["height"]
        except AssertionError:  # the page is not laid out yet, or another one has just come
            return 0

    tab.go(f"{tab.url}/?scripts")
    assert height() == 0
    tab.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.ask("Page.navigate", url=f"{tab.url}/?plain")
        assert wait_for(height) > 10
    finally:
        tab.ask("Emulation.setScriptExecutionDisabled", value=False)
