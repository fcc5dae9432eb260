"""Two runs side by side: differences against hand calculations, and what is not paired is not said to be."""

import base64
import copy
import csv
import io
import itertools
import re

import pytest

from tasks.report import against
from tasks.report.compare import Side, compare
from tasks.report.flat import flat_figures

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


def test_two_systems_of_one_title_are_two_and_a_title_that_is_worded_anew_is_the_same_system():
    def named(first: float, title: str) -> list[dict]:
        values = (("system-a", first, title), ("system-b", 0.5, "an LLM"))
        return [system(value) | {"rung": rung, "system": called} for rung, value, called in values]

    found = compare(
        side("a", THEN, systems=named(0.4, "an LLM")), side("b", THEN, systems=named(0.6, "an LLM"))
    )
    row = row_of(found, "BERTScore")
    assert (row["of"], row["then"], row["now"]) == ("an LLM (system-a)", 0.4, 0.6)
    assert found["equal"] == 3 and not found["gone"]  # the other's two figures, and the training's loss
    found = compare(
        side("a", THEN, systems=named(0.4, "an LLM")), side("b", THEN, systems=named(0.6, "another"))
    )
    assert row_of(found, "BERTScore")["of"] == "another" and not found["gone"] and not found["new"]


def verdicts(part) -> list[dict]:
    """Every graded mean of a report, but for spreads over seeds and what only words an answer."""
    if isinstance(part, list):
        return [found for each in part for found in verdicts(each)]
    if not isinstance(part, dict):
        return []
    own = [part] if part.get("mean") is not None and {"low", "high"} <= part.keys() else []
    return own + [found for name, each in part.items() if name != "answer" for found in verdicts(each)]


def test_every_difference_that_a_report_grades_and_every_share_has_its_place_beside_another_run(whole):
    facts = copy.deepcopy(whole[1])
    numbers = itertools.count(1)
    graded = verdicts(facts)
    for found in graded:
        found["mean"] = float(next(numbers))
    shares = [arm for arm in facts["memory_ladder"]["arms"].values() if arm["share"]]
    shares += [q for pair in facts["judge"] for q in pair["questions"].values() if q["share"]]
    for found in shares:
        found["share"][0] = float(next(numbers))
    agreed = [*facts["study"]["alpha"].values(), *facts["study"]["beside_judge"]]
    agreed = [(found, key) for found in agreed for key in ("alpha", "kappa") if found.get(key) is not None]
    for found, key in agreed:
        found[key] = float(next(numbers))
    assert len(graded) > 100 and len(shares) == 4 and len(agreed) == 3
    rows = flat_figures(facts)
    assert set(range(1, next(numbers))) - {row.value for row in rows} == set()
    assert len({row.name for row in rows}) == len(rows)
    tables = {row.table for row in rows}
    for table in (
        "The last rung over floors",
        "What EPO moved",
        "Judge",
        "Figure 5",
        "Memory ladder by turn",
        "Trained on one",
    ):
        assert any(name.startswith(table) for name in tables), table


def test_what_the_first_screen_answers_is_laid_beside_what_it_answered():
    def answered(run: str, grade: str, says: str) -> Side:
        same = {"about": "Do clips help?", "grade": "not run", "says": "No reply had them."}
        return side(run, THEN, answer=[{"about": "Did EPO?", "grade": grade, "says": says}, same])

    found = compare(answered("a", "not shown", "It did <not>."), answered("b", "shown", "It did."))
    assert [(row["what"], row["name"], row["then"], row["now"]) for row in found["changed"]] == [
        ("answer", "Did EPO?", "not shown", "shown")
    ]
    (answer,) = found["answers"]
    assert (answer["about"], answer["then"], answer["now"]) == ("Did EPO?", "It did <not>.", "It did.")
    page = against.with_section("<main><!-- against --></main>", found)
    assert "It did &lt;not&gt;." in page and "What the first screen answers, then and now" in page
    assert against.answer_rows(found) == [
        {"question": "Did EPO?", "then": "not shown: It did <not>.", "now": "shown: It did."}
    ]
    new = compare(side("a", THEN), answered("b", "shown", "It did."))
    assert new["answers"][0]["then"] == "not there" and against.answer_rows(new)[0]["then"] == "not there"


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
