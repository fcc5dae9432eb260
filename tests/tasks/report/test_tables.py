"""What `empamba report` prints: the page's own tables and cells, from report.json, readable at 80 columns."""

import io
import json

import pytest

from storage.store import Store
from tasks.listing import listing
from tasks.report.cells import compared
from tasks.report.figures import STEPS
from tasks.report.tables import report_tables
from tasks.terminal import Terminal
from tests.tasks.report.test_memory_ladder_page import ladder
from tests.tasks.report.test_write_report import (
    ASKED,
    JUDGED,
    NO_GAIN,
    RUNG_FIGURES,
    RUNGS,
    SYSTEMS,
    Page,
    _artefacts,
    _json,
    _metrics,
    _replies,
    _report,
    _trained,
)

CI = [0.4, 0.6]
FORM = {"tokens": 600.5, "tokens_ci": [500.0, 700.0], "gigabytes": 16.3, "memory_of": "it", "seconds": 0.1112,
        "seconds_ci": [0.1, 0.12], "bertscore": 0.84, "bertscore_ci": [0.83, 0.85], "dropped_utterances": 7}  # fmt: skip
LONG = {
    "there": 40, "exchanges": 12, "dialogues": 5, "least_turns": 20, "datasets": ["meld/test"], "stands_in": False,
    "measured_cost": True, "most_utterances": 32, "most_tokens": 1024,
    "forms": {"text": FORM, "memory": {**FORM, "tokens": 110.25, "gigabytes": 15.73}},
    "floors": [{"title": 'always "Okay."', "n": 12, "dialogues": 5, "bertscore": 0.625, "bertscore_ci": None}],
    "changes": {"tokens": {**NO_GAIN, "mean": -490.25, "low": -590.0, "high": -390.0, "share": -0.8164}},
}  # fmt: skip
RIGHT = {"clips": 59, "dialogues": 11, "accuracy": 0.413, "accuracy_ci": [0.313, 0.513], "balanced": 0.4,
         "balanced_ci": [0.29, 0.51], "majority": 0.271, "other": 0.25, "over_other": NO_GAIN, "over_text": None, "confusion": {}}  # fmt: skip
RECOGNITION = {"clips": 59, "dialogues": 11, "there": 83, "splits": {"meld": "test"}, "answers": [],
               "accuracy": {"A": RIGHT}, "accuracy_by_dataset": {"meld": {"A": RIGHT}}, "mcnemar": []}  # fmt: skip
KIND = {"bleu_1": 0.5, "bleu_4": 0.125, "bertscore": 0.75, "exact": 0.25, "n": 37}
KIND |= {f"{name}_ci": CI for name in ("bleu_1", "bleu_4", "bertscore", "exact")}
RESTORED = {"conversations": 37, "there": 40, "left_out": {"longer": 3}, "utterances": 80, "datasets": ["meld"],
            "dev_stands_in": [], "own": KIND, "other": {**KIND, "bleu_1": 0.0625}, "examples": []}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that has every table: its page, and its report.json."""
    tmp_path = tmp_path_factory.mktemp("whole")
    store = Store(tmp_path / "store")
    artefacts = _artefacts(store, tmp_path)
    metrics = json.loads(store.read(_metrics(store, [*RUNGS, "system-o"])[0]))
    over = {"rung": "5-epo", "left_out": 3, **dict.fromkeys(RUNG_FIGURES, NO_GAIN)}
    metrics["over_floors"] = [{**over, "against": "floor-okay", "system": 'always "Okay."'}]
    over["log_likelihood"] = {**NO_GAIN, "rows": 30, "dialogues": 8}
    metrics["over_systems"] = [{**over, "against": "system-o", "system": "Some <o>"}]
    counts = {"exchanges": 7, "answered": 5, "failures": {"filtered": 2}, "model": "served:o@12ab", **ASKED}
    artefacts |= {
        "metrics": [_json(store, "metrics.json", metrics)],
        "ladder": [_json(store, "ladder.json", ladder())],
        "long-history": [_json(store, "long_history.json", LONG)],
        "compressor.test": [_json(store, "reconstruction.json", RESTORED)],
        "extractor": _trained(store, tmp_path / "x", True, "other_clip"),
        "extractor.test": [_json(store, "recognition.json", RECOGNITION)],
        "systems": [*_replies(store, ["system-o"]), _json(store, "o.json", {"name": "o", **counts})],
        "judge": [_json(store, "judge-system-o.json", JUDGED)],
    }
    changes = (f"systems={json.dumps(SYSTEMS)}", f"judge={json.dumps({'server': {'model': 'judge-7b'}})}")
    html, facts = _report(tmp_path, artefacts, store, changes=changes)
    return " ".join(" ".join(Page(html).text.values()).split()), facts


def test_a_figure_of_fewer_says_of_how_many_and_what_is_left_out_is_told(whole):
    page, facts = whole
    tables = {table.title: table.rows for table in report_tables(facts, True)[0]}
    (floor,) = tables["What rung 5 has over systems that read nothing"]
    (system,) = tables["What rung 5 has over other systems"]
    assert floor["n"] == system["n"] == "37; of 9 dialogues; 3 answered by one alone left out"
    assert system["Log-likelihood of the true reply"].endswith("; n = 30 of 8 dialogues")
    assert not any("n = " in text for text in (*floor.values(), system["BERTScore"]))
    assert page.count("n = 30 of 8 dialogues") == 1
    assert page.count("37 of 9 dialogues 3 answered by one alone left out") == 2
    # Of table 8, of figure 6, and of it by dataset.
    assert page.count("0.400 to 0.600 37 of 37 dialogues") == 2 and page.count("A 59 of 11 41.3 %") == 2


def test_the_rows_number_is_of_the_figure_that_most_have():
    row = {figure.key: {**NO_GAIN, "rows": 5 + at} for at, figure in enumerate(STEPS)}
    n, cells = compared(row | {"left_out": {"2-ft": 1, "1-llm": 2}}, STEPS)
    assert n.value == str(4 + len(STEPS)) and n.notes[1] == "3 answered by one alone left out"
    assert [cell.notes[-1] for cell in cells[:-1]] == [
        f"n = {5 + at} of 9 dialogues" for at in range(len(STEPS) - 1)
    ]
    assert cells[-1].notes == ("0.043 could have been",)
    none = compared(
        {STEPS[0].key: {**NO_GAIN, "mean": None, "rows": 0}} | {k: row[k] for k in list(row)[1:]}, STEPS
    )
    assert none[1][0].line() == "no difference seen; n = 0 of 9 dialogues"


def printed(facts: dict, width: int, intervals: bool) -> list[str]:
    file = io.StringIO()
    terminal = Terminal(file=file, width=width)
    for table in report_tables(facts, intervals)[0]:
        terminal.print(listing(table.title, table.columns, table.rows, width, share=False))
        for line in table.lines:
            terminal.print(line)
    return file.getvalue().splitlines()


def test_every_table_of_the_page_is_there(whole):
    tables, absent = report_tables(whole[1], True)
    assert absent == []
    titles = [table.title for table in tables]
    for name in ("What did this run show", "Table 2", "What each rung adds", "What rung 5 has over systems that read",
                 "memory ladder", "Table 3", "Table 1: MELD", "Other systems", "over other systems", "judge",
                 "Figure 6: emotion", "Figure 6: MELD", "Table 8"):  # fmt: skip
        assert sum(name in title for title in titles) == 1, name


def test_cells_are_the_pages_own(whole):
    """Each part of each figure's cell stands on the page, letter for letter."""
    page, facts = whole
    cells = [
        (table.title, text)
        for table in report_tables(facts, True)[0]
        if not table.title.startswith(("Table 1", "Other", "What did"))
        for row in table.rows
        for name, text in row.items()
        if name not in (table.columns[0], "what")
    ]
    assert len(cells) > 150
    for title, text in cells:
        for part in text.removesuffix(")").replace(" (", "; ").split("; "):
            assert part.rstrip(")") in page, (title, text)
    for answer in facts["answer"]:
        assert answer["says"] in page


def test_the_figures_are_those_of_the_artefacts(whole):
    tables = {table.title.split(":")[0]: table for table in report_tables(whole[1], True)[0]}
    of = {name: {row[table.columns[0]]: row for row in table.rows} for name, table in tables.items()}
    assert of["Table 2"]["2-ft"]["EmotionScore"] == "0.310 (0.260 to 0.360)"
    assert (
        of["Table 2"]["2-ft"]["n"] == "37; of 9 dialogues"
        and of["Table 2"]["paper: 2-ft"]["Dist-1"] == "0.973"
    )
    step = of["What each rung adds to the one before"]["2 over 1: finetuned (LoRA)"]
    assert step["BERTScore"] == "+0.010 (−0.020 to 0.040); no difference seen; 0.043 could have been"
    assert of["Table 3"]["change, paired"]["input, tokens"] == "−490.2 (−81.6 %) (−590.0 to −390.0)"
    assert of["Table 3"]["change, paired"]["memory, GB"] == "−0.57 (−3.5 %)"
    assert of["Table 3"]["paper: with MambaCompressor"]["time, s"] == "0.0795"
    assert of["Table 3"]['always "Okay."']["BERTScore"] == "0.625"
    assert of["Table 8"]["another conversation's"]["BLEU-1"] == "0.062 (0.400 to 0.600)"
    assert of["Table 8"]["paper (MultiDialog)"]["BLEU-4"] == "0.679"
    assert of["Figure 6"]["A"]["right"] == "41.3 % (31.3 % to 51.3 %)"
    asked = of["Other systems"]
    assert (
        asked["Some <o>"]["cost"] == "at least 3.0000 EUR" and asked["Some <o>"]["failed"] == "2; filtered 2"
    )
    assert asked["Gemini 1.5 flash"]["not run"].startswith("needs an endpoint")
    share = of["Who replies better, to a judge"]["+ EPO, Some <o>: empathy"]["first's share of wins"]
    assert share == "0.75 (0.30 to 0.95)"
    assert "4-av: not run: no media" not in tables["Table 2"].lines
    assert "3-mc: 96 % identical to 2-ft" in tables["Table 2"].lines
    assert tables["What the history is worth"].lines == tuple(whole[1]["memory_ladder"]["sentences"])


@pytest.mark.parametrize(("width", "intervals"), [(80, False), (160, True)])
def test_nothing_is_wider_than_the_terminal_nor_cut(whole, width, intervals):
    lines = printed(whole[1], width, intervals)
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    # The ladder and table 1 are tables and no cards, even on 80 columns.
    for name in ("Table 2", "Table 1: MELD"):
        (place,) = (i for i, line in enumerate(lines) if line.startswith(name))
        assert lines[place + 1].startswith("┏"), name


def test_what_a_run_has_not_is_named(tmp_path):
    store = Store(tmp_path / "store")
    artefacts = dict.fromkeys(_artefacts(store, tmp_path)) | {
        "utterances": _artefacts(store, tmp_path)["utterances"]
    }
    tables, absent = report_tables(_report(tmp_path, artefacts, store)[1], False)
    assert {"steps", "floors", "memory ladder", "Table 1", "judge", "Figure 6", "Table 8"} <= set(absent)
    (ladder_table,) = (table for table in tables if table.title.startswith("Table 2"))
    assert "1-llm: not run: not asked for" in ladder_table.lines
