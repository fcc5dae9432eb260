"""The page in a real browser: typing, a recorded clip, a lost connection, a reload, and no script at all."""

import pytest

from model.generation.settings import Sampling
from tasks.chat.web import web_app
from tests.support.browser import Browser, needs_a_browser
from tests.support.served import served

pytestmark = needs_a_browser
LAST = "turns.at(-1)"
ENDED = f"turns.length === %d && {LAST}.history !== null"


@pytest.fixture(scope="module")
def tab(engine, found, tmp_path_factory):
    app = web_app(engine, found, "5-epo", Sampling(temperature=0, max_new_tokens=8), "a-run", "127.0.0.1")
    with served(app) as url, Browser(tmp_path_factory.mktemp("profile")) as page:
        page.url = url
        yield page


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
    tab.run("document.getElementById('film').click()")
    tab.until("recorder !== null && recorder.state === 'recording'")
    tab.run("new Promise((done) => setTimeout(done, 1500))")
    tab.run("document.getElementById('film').click()")
    tab.until("clip !== null")
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

    # What is said while the page hears nothing is there once it hears again; and after a reload.
    tab.run("(() => { events.close(); })()")
    tab.run("posted(here('turns'), { text: 'Unheard.', clip: null })")
    assert tab.run("turns.length") == 3
    tab.run("listen()")
    tab.until(ENDED % 4)
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
def test_without_scripts_it_says_so(tab):
    tab.ask("Emulation.setScriptExecutionDisabled", value=True)
    tab.ask("Page.navigate", url=f"{tab.url}/?plain")
    root = tab.ask("DOM.getDocument", depth=-1)
    while "needs JavaScript" not in str(root):
        root = tab.ask("DOM.getDocument", depth=-1)
    tab.ask("Emulation.setScriptExecutionDisabled", value=False)
