"""The viewer's script in a real browser: what is shown first, more, chosen by emotion, ordered by difference; texts stay text."""

import html
import json
import re
import shutil
import subprocess

import pytest

from storage.utterance import EMOTIONS
from tasks.report.figures import FIGURES
from tasks.report.render import page_environment
from tasks.report.templates import template
from tasks.report.viewer import CHARACTERS, as_script
from tasks.report.viewer import FIGURES as SHOWN

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the viewer's script needs a browser")

DRIVE = """
const box = document.getElementById("viewer"), form = box.querySelector("form"), seen = {};
const look = (name) => {
  const cards = [...box.querySelectorAll(".rows .card")];
  seen[name] = {
    status: box.querySelector("[role=status]").textContent,
    more: !box.querySelector("button").hidden,
    places: cards.map((card) => card.querySelector(".note").textContent),
    first: cards.length ? [...cards[0].querySelectorAll("td")].map((cell) => cell.textContent) : [],
    said: cards.length ? [...cards[0].querySelectorAll(".say")].map((line) => line.textContent) : [],
  };
};
const choose = (name, value) => {
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("change", { bubbles: true }));
};
look("start");
box.querySelector("button").click();
look("more");
choose("emotion", "sad");
look("sad");
choose("emotion", ""); choose("order", "gain");
look("gain");
choose("order", "loss"); choose("corpus", "own");
look("loss");
choose("figure", "2");
look("figure");
seen.marks = box.querySelectorAll(".rows i").length;
const out = document.createElement("pre");
out.id = "seen";
out.textContent = JSON.stringify(seen);
document.body.append(out);
"""


def sample(n: int) -> dict:
    """The second system's reply is n tenths nearer than the first's by the first figure, and nobody's by the last."""
    return {
        "dataset": "own" if n % 5 == 0 else "meld",
        "place": f"{n}, turn 0",
        "history": [["Ann", f"before {n}"]],
        "speaker": "Bob",
        "sentence": f"<i>sentence</i> {n}",
        "reference": "true",
        "emotion": "sad" if n < 3 else None,
        "replies": {"1-llm": "", "5-epo": f"reply {n}"},
        "figures": {"1-llm": [0.0, 0.0, None], "5-epo": [n / 10, 0.0, None]},
    }


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    samples = {"exchanges": 25, "systems": ["1-llm", "5-epo"], "figures": list(SHOWN), "cut": 0}
    samples["rows"] = [sample(n) for n in range(25)]
    page = page_environment({}).get_template("viewer.html.j2").render(
        facts={"viewer": samples},
        viewer_data=as_script(samples),
        viewer_titles={"1-llm": "LLM as it is"},
        viewer_characters=CHARACTERS,
        viewer_script=template("viewer.js"),
        emotions=(*EMOTIONS, "none"),
        titles={},
        figures=FIGURES,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("viewer")
    path = folder / "page.html"
    path.write_text(f'<!doctype html><meta charset="utf-8"><body>{page}<script>{DRIVE}</script>')
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom")
    done = subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={folder / 'browser'}", path.as_uri()],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    return json.loads(html.unescape(found[1]))


def numbers(seen: dict, name: str) -> list[int]:
    return [int(re.search(r", (\d+), turn", place)[1]) for place in seen[name]["places"]]


def test_twenty_are_shown_and_the_others_on_demand(seen):
    assert seen["start"]["status"] == "20 of 25 shown" and seen["start"]["more"]
    assert numbers(seen, "start") == list(range(20))
    assert seen["more"]["status"] == "25 of 25 shown" and not seen["more"]["more"]
    assert numbers(seen, "more") == list(range(25))


def test_a_card_has_what_was_said_and_each_systems_reply_with_its_figure_and_text_stays_text(seen):
    assert seen["start"]["first"] == ["LLM as it is", "(nothing)", "0.000", "5-epo", "reply 0", "0.000"]
    said = seen["start"]["said"]
    assert said == ["Annbefore 0", "Bob<i>sentence</i> 0", "true replytrue (sad)"]
    assert seen["marks"] == 0


def test_exchanges_are_chosen_and_ordered_by_what_the_first_gains_over_the_second(seen):
    assert numbers(seen, "sad") == [0, 1, 2] and seen["sad"]["status"] == "3 of 3 shown"
    assert numbers(seen, "gain") == list(range(24, 4, -1))  # the last system is the first to compare
    assert numbers(seen, "loss") == [0, 5, 10, 15, 20]
    assert seen["figure"]["status"] == "0 of 0 shown"  # nobody has that figure, so nothing can be ordered
