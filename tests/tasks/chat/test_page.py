"""The page in a real browser: typing, a recorded clip, a lost connection, a reload, and no script at all."""

import pytest

from model.generation.settings import Sampling
from tasks.chat.web import web_app
from tests.support.browser import browser
from tests.support.served import served

LAST = "turns.at(-1)"
ENDED = f"turns.length === %d && {LAST}.history !== null"


@pytest.fixture(scope="module")
def tab(engine, found, tmp_path_factory):
    app = web_app(engine, found, "5-epo", Sampling(temperature=0, max_new_tokens=8), "a-run", "127.0.0.1")
    with served(app) as url, browser(tmp_path_factory.mktemp("profile")) as page:
        page.url = url
        yield page


@pytest.mark.slow
def test_a_conversation_in_a_browser(tab):
    tab.open(tab.url)
    tab.wait("document.activeElement.id === 'text' && location.hash.length > 20")
    assert tab.look("document.getElementById('notes').textContent") == "a note"
    tab.type("Hello <b>there</b> 🙂")
    tab.wait(ENDED % 1)
    shown = tab.look("[...document.querySelectorAll('.bubble')].map((b) => b.textContent)")
    assert shown[0] == "Hello <b>there</b> 🙂" and shown[1].startswith("5-epo")
    assert tab.look("document.querySelectorAll('[role=meter]').length") == 7
    assert tab.look("document.querySelector('.dots').textContent.length") in (1, 2)

    # A clip from the camera and the microphone, which the browser makes up.
    tab.look("document.getElementById('film').click()")
    tab.wait("recorder !== null && recorder.state === 'recording'")
    tab.look("new Promise((done) => setTimeout(done, 1500))")
    tab.look("document.getElementById('film').click()")
    tab.wait("clip !== null")
    assert tab.look("clip.seen && clip.heard")
    tab.type("What do you see?")
    tab.wait(ENDED % 2)
    assert tab.look(f"{LAST}.clip.seen && document.getElementById('clip').hidden")

    # Two answers side by side.
    tab.look(
        "(() => { const s = document.getElementById('beside'); s.value = '1-llm'; s.dispatchEvent(new Event('change')); })()"
    )
    tab.look("new Promise((done) => setTimeout(done, 300))")
    tab.type("And both of you?")
    tab.wait(ENDED % 3)
    assert tab.look(f"{LAST}.answers.map((a) => a.rung)") == ["5-epo", "1-llm"]

    # What is said while the page hears nothing is there once it hears again; and after a reload.
    tab.look("(() => { events.close(); })()")
    tab.look("posted(here('turns'), { text: 'Unheard.', clip: null })")
    assert tab.look("turns.length") == 3
    tab.look("listen()")
    tab.wait(ENDED % 4)
    before = tab.look("JSON.stringify(turns)")
    tab.call("Page.reload")
    tab.wait("document.readyState === 'complete' && typeof turns !== 'undefined' && turns.length === 4")
    assert tab.look("JSON.stringify(turns)") == before
    assert tab.look("document.querySelectorAll('.person').length") == 4

    tab.look("document.getElementById('recall').click()")
    tab.wait("!document.getElementById('recalled').hidden")
    assert tab.look("document.querySelectorAll('#recalled tbody tr').length") >= 5
    tab.look("document.getElementById('begin').click()")
    tab.wait("turns.length === 0 && document.querySelectorAll('.turn').length === 0")
    assert tab.errors == []


@pytest.mark.slow
def test_without_scripts_it_says_so(tab):
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.call("Page.navigate", url=f"{tab.url}/?plain")
    root = tab.call("DOM.getDocument", depth=-1)
    while "needs JavaScript" not in str(root):
        root = tab.call("DOM.getDocument", depth=-1)
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
