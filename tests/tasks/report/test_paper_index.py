"""Where a reader finds each table and figure of the paper: in the open, on paper too, or with what it would take."""

import json
import re
from html import unescape

import pytest

from storage.store import Store
from tests.tasks.report.test_write_report import Page, _artefacts, _json, _metrics, _report

OF_THE_PAPER = {f"Table {n}" for n in range(1, 9)} | {f"Figure {n}" for n in range(1, 12)}


def index(html: str) -> dict[str, tuple[str, str]]:
    """Table or figure -> the address its link goes to, "" where it has none, and what is said."""
    inside = re.search(r'<dl class="index">(.*?)</dl>', html, re.DOTALL)[1]
    found = {}
    for of, said in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", inside, re.DOTALL):
        kind, *names = of.replace(",", "").split()
        address = re.search(r'href="#([^"]+)"', said)
        for name in names:
            words = " ".join(unescape(re.sub(r"<[^>]+>", "", said)).split())
            found[f"{kind.removesuffix('s')} {name}"] = (address[1] if address else "", words)
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A run on text alone, without a study."""
    tmp_path = tmp_path_factory.mktemp("bare")
    store = Store(tmp_path / "store")
    return _report(tmp_path, _artefacts(store, tmp_path), store)[0]


def test_each_table_and_figure_has_its_place_on_the_page(whole):
    html, _ = whole
    found = index(html)
    assert set(found) == OF_THE_PAPER
    for name, (place, said) in found.items():
        assert not place or f'id="{place}"' in html, name
        assert "not run" not in said, (name, said)
    assert found["Figure 6"][0] == "recognition" and found["Figure 11"][0] == "figure-11"


def test_what_a_run_has_not_says_what_it_takes(bare):
    found = index(bare)
    assert set(found) == OF_THE_PAPER
    assert "not run: needs people's judgements" in found["Figure 5"][1]
    for name in ("Figure 9", "Figure 10"):
        assert "not run: needs a study (`empamba study make`" in found[name][1]
    assert "not run: no media" in found["Figure 6"][1]
    assert "not run" in found["Table 8"][1] and "not run" in found["Figure 11"][1]
    assert "not run" not in found["Table 2"][1]


@pytest.mark.parametrize("page", ["whole", "bare"])
def test_figure_6_table_8_and_figure_11_stand_in_the_open_whatever_was_trained(page, request):
    found = request.getfixturevalue(page)
    html = found if page == "bare" else found[0]
    nav = re.search(r"<nav>(.*?)</nav>", html, re.DOTALL)[1]
    for address in re.findall(r'href="#([^"]+)"', nav):
        assert f'id="{address}"' in html, address
    for name, title in (("recognition", "Figure 6"), ("table-8", "Table 8")):
        assert f'href="#{name}"' in nav
        section = re.search(rf'<section id="{name}">(.*?)</section>', html, re.DOTALL)[1]
        opened = section.split("<details")[0]
        assert title in opened and ("<table>" in opened or "not run" in opened)
    if page == "whole":
        assert "Figure 11" in section.split("<details")[0]


def test_table_1_is_one_open_table_with_intervals_left_out_replies_floors_and_the_papers_figures(tmp_path):
    store = Store(tmp_path / "store")
    artefacts = _artefacts(store, tmp_path)
    metrics = json.loads(store.read(_metrics(store, ["1-llm", "2-ft", "floor-okay"])[0]))
    metrics["systems"] = [row | {"emotionscore_left_out": 3} for row in metrics["systems"]]
    artefacts["metrics"] = [_json(store, "metrics.json", metrics)]
    html, _ = _report(tmp_path, artefacts, store)
    section = re.search(r'<section id="datasets">(.*?)</section>', html, re.DOTALL)[1]
    table = re.search(r"<table>(.*?)</table>", section.split("<details")[0], re.DOTALL)[1]
    assert "screen" not in table
    text = " ".join(Page(f"<section id='x'>{table}</section>").text["x"].split())
    assert "floor system floor-okay" in text and "MELD dev stands in for test" in text
    # EmotionScore of rung 2 on MELD, its interval and what is left out, n, and the paper's three.
    assert (
        "0.310 0.260 to 0.360 n = 34; 3 left out" in text
        and "37 of 9 dialogues Qwen2.5-7B-Instruct† 0.866 0.447 0.953" in text
    )
    assert "GPT-4o not run GPT-4o 0.871 0.411 0.980" in text


def test_what_one_reply_to_a_sentence_means_is_true_of_any_data(bare):
    assert "No dataset here has two human replies" not in bare
    assert "A dialogue holds one true reply to each sentence" in bare
