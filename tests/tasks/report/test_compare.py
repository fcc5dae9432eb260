"""Two runs side by side: differences against hand calculations, and what is not paired is not said to be."""

import base64
import csv
import io
import re

import pytest

from tasks.report import against
from tasks.report.compare import Side, compare

RUNG = "2-ft"


def exchanges(*places: tuple[str, int, str]) -> list[list]:
    """(dialogue, turn, what was said)"""
    return [["meld", "test", dialogue, turn, content] for dialogue, turn, content in places]


def system(value: float, ends=(0.1, 0.9), dataset: str = "all", **more) -> dict:
    row = {"rung": RUNG, "system": "finetuned", "dataset": dataset, "split": "test", "n": 6, "dialogues": 6}
    return {
        **row,
        "bertscore": value,
        "bertscore_ci": list(ends),
        "bleu1": value,
        "bleu1_ci": list(ends),
        **more,
    }


def side(run: str, scores: list[float], said=None, value: float = 0.5, **more) -> Side:
    """A run whose rung 2 answered six exchanges of six dialogues with these BERTScores."""
    report = {
        "systems": [system(value)],
        "settings": {
            "epo": {"gamma": 0.5},
            "scorer": {"layer": 3},
            "metrics": {"intervals": {"resamples": 200}},
        },
        "weights": {"BERTScore": {"name": "minilm", "identity": "wheel:1"}},
        "bertscore": {"signature": "minilm_L6"},
        "training": {"epo": {"verdict": {"grade": "learned"}, "heldout_after": {"loss": 1.5}}},
        "counts": {"splits": [{"dataset": "meld", "split": "test", "dialogues": 6, "exchanges": 6}]},
    }
    said = said or exchanges(*((f"d{i}", 1, "x") for i in range(6)))
    replies = {"exchanges": said, "figures": {RUNG: {"bertscore": scores}}}
    return Side(
        {**report, **more}, replies, {"run": run, "started": "then", "commit": "abc", "profile": "cpu"}
    )


def row_of(found: dict, figure: str) -> dict:
    return next(row for row in found["figures"] if row["figure"] == figure and row["table"] == "Table 2")


THEN = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
NOW = [0.3, 0.4, 0.5, 0.6, 0.7, 0.9]


def test_a_difference_is_that_of_the_same_exchanges_in_pairs():
    found = compare(side("a", THEN), side("b", NOW, value=0.6))
    row = row_of(found, "BERTScore")
    assert row["difference"] == pytest.approx(
        (5 * 0.2 + 0.3) / 6, abs=1e-6
    )  # not .6 less .5, which are of all replies
    assert row["low"] < row["difference"] < row["high"] and row["low"] > 0.15  # every pair rose by .2 or more
    assert (row["rows"], row["dialogues"], row["grade"], row["why"]) == (6, 6, "better", "")
    assert (row["then"], row["then_ends"], row["now"]) == (0.5, (0.1, 0.9), 0.6)


def test_an_exchange_whose_text_changed_or_that_one_run_alone_answered_is_no_pair():
    said = exchanges(*((f"d{i}", 1, "x") for i in range(5)), ("d5", 1, "another reply"), ("d6", 1, "x"))
    found = compare(side("a", THEN), side("b", [*NOW, 0.0], said, value=0.6))
    row = row_of(found, "BERTScore")
    assert row["rows"] == 5 and row["difference"] == pytest.approx(0.2)
    # Every difference is .2, so nothing varied, and an interval of no width would claim to know too much.
    assert "all alike" in against.figure_rows([row], True)[0]["difference"]


def test_what_cannot_be_paired_says_why_and_has_no_interval_of_a_difference():
    old, new = side("a", THEN), side("b", NOW, value=0.6)
    row = row_of(compare(old, new), "BLEU-1")
    assert row["why"] == "not kept reply by reply" and row["low"] is None and row["grade"] == ""
    assert row["difference"] == pytest.approx(0.1) and row["now_ends"] == (0.1, 0.9)
    rescored = side("b", NOW, value=0.6, bertscore={"signature": "roberta-large_L17"})
    assert "another scorer" in row_of(compare(old, rescored), "BERTScore")["why"]
    unkept = Side(old.report, None, old.card)
    assert row_of(compare(unkept, new), "BERTScore")["why"] == "single replies of a are not at hand"
    strangers = side("b", NOW, exchanges(*((f"e{i}", 1, "x") for i in range(6))), value=0.6)
    assert row_of(compare(old, strangers), "BERTScore")["why"] == "no exchange was answered in both"


def test_settings_weights_data_and_verdicts_that_changed_are_named():
    old = side("a", THEN)
    new = side(
        "b", THEN,
        settings={**old.report["settings"], "epo": {"gamma": 0.4, "beta": 2}},
        weights={"BERTScore": {"name": "minilm", "identity": "wheel:2"}},
        training={"epo": {"not_run": "no pairs"}},
        counts={"splits": [{"dataset": "meld", "split": "test", "dialogues": 7, "exchanges": 6}]},
    )  # fmt: skip
    changed = {(row["what"], row["name"]): (row["then"], row["now"]) for row in compare(old, new)["changed"]}
    assert changed == {
        ("setting", "epo.gamma"): (0.5, 0.4),
        ("setting", "epo.beta"): ("not there", 2),
        ("weights", "BERTScore"): ("minilm (wheel:1)", "minilm (wheel:2)"),
        ("data", "meld/test: dialogues"): (6, 7),
        ("training", "epo"): ("learned", "not run: no pairs"),
    }


def test_the_same_run_again_has_nothing_that_differs():
    found = compare(side("a", THEN), side("b", THEN))
    assert found["changed"] == [] and found["figures"] == [] and found["equal"] == 3 and not found["new"]


def test_replies_that_differ_under_equal_means_are_shown():
    """The means are alike, the replies are not."""
    found = compare(side("a", THEN), side("b", THEN[::-1]))
    row = row_of(found, "BERTScore")
    assert row["then"] == row["now"] and row["grade"] == "no difference seen" and row["detectable"] > 0


def test_a_lower_loss_is_better_and_a_figure_that_one_run_lacks_is_named():
    old, new = side("a", THEN), side("b", THEN, systems=[])
    found = compare(old, new)
    assert [name.split(" · ")[0] for name in found["gone"]] == ["Table 2", "Table 2"] and found["new"] == []


def test_the_section_stands_in_the_page_escaped_with_its_data_inside():
    found = compare(side("<a>", THEN), side("b", NOW, value=0.6))
    page = against.with_section("<main><p>tables</p>\n<!-- against -->\n<p>more</p></main>", found)
    assert page.index("tables") < page.index('<section id="against">') < page.index("more")
    assert "beside run &lt;a&gt;" in page and "1 not paired: not kept reply by reply" in page
    link = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', page)
    lines = list(csv.DictReader(io.StringIO(base64.b64decode(link.group(1)).decode())))
    assert {line["figure"] for line in lines} == {"BERTScore", "BLEU-1"}
    assert float(lines[0]["then_low"]) == 0.1 and float(lines[0]["difference"]) == pytest.approx(0.216667)
    old = against.with_section("<main><p>of an earlier version</p></main>", found)
    assert old.endswith("</section></main>") or old.endswith("</section>\n</main>")
