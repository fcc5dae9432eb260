"""What `empamba report` prints: the page's own tables and cells, from report.json, readable at 80 columns."""

import io
import re
from html.parser import HTMLParser

import pytest

from model.metrics.catalogue import METRICS
from storage.store import Store
from tasks.listing import listing
from tasks.report.cells import compared
from tasks.report.figures import STEPS
from tasks.report.tables import parts, report_tables
from tasks.terminal import Terminal
from tests.tasks.report.test_write_report import NO_GAIN, VOID, Page, _artefacts, _report


def words(html: str) -> str:
    return " ".join(" ".join(Page(html).text.values()).split())


def test_a_figure_of_fewer_says_of_how_many_and_what_is_left_out_is_told(whole):
    page, facts = words(whole[0]), whole[1]
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


class Tables(HTMLParser):
    """The tables of a page: where each stands, its first column's head, and the numbers in its cells."""

    def __init__(self, html: str):
        super().__init__()
        self.section, self.heading, self.open, self.found = "", "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = dict(attrs)["id"]
        if tag in ("h2", "h3", "h4", "summary"):
            self.heading = ""
        if tag == "table":
            self.found.append({"section": self.section, "under": self.heading, "head": "", "numbers": set()})

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        if {"h2", "h3", "h4", "summary"} & set(self.open):
            self.heading = f"{self.heading} {' '.join(data.split())}".strip()
        elif "th" in self.open and not self.found[-1]["head"]:
            self.found[-1]["head"] = " ".join(data.split())
        elif "td" in self.open:
            self.found[-1]["numbers"] |= numbers(data)


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d[\d.,]*\d|\d", text))


OF_THE_RUN = {"candidates", "replies", "data", "weights", "settings", "run"}
"""Sections of samples, and of what the run was given: `show`, `status` and `runs` print these."""
WORDED = ("Parts of each rung", "What each figure is", "What was answered to each emotion", "All figures of this stage",
          "Reconstructed from memories alone")  # fmt: skip
"""Headings of tables that hold no results, or those of a table of their own in single counts."""


def test_every_table_of_the_page_is_there(whole):
    """Asked of the page itself: all numbers of each of its tables stand in one part of the terminal's."""
    html, facts = whole
    assert report_tables(facts, True)[1] == []
    printed_numbers = {
        name: set().union(
            *(
                numbers(" ".join([table.title, *table.columns, *table.lines, *map(str, row.values())]))
                for table in tables
                for row in table.rows
            )
        )
        for name, tables in parts(facts, True).items()
    }
    asked = [
        table
        for table in Tables(html).found
        if table["section"] not in OF_THE_RUN
        and not table["under"].startswith(WORDED)
        and table["head"]
        != "Held out"  # of each training, before and after; the loss is in the table of trainings
    ]
    assert len(asked) > 30
    for table in asked:
        fits = [name for name, there in printed_numbers.items() if table["numbers"] <= there]
        assert fits, (table["section"], table["under"], table["head"])


def test_every_metric_of_the_catalogue_is_a_column(whole):
    columns = {column for table in report_tables(whole[1], False)[0] for column in table.columns}
    assert [metric.title for metric in METRICS if not {metric.title, metric.short} & columns] == []


def test_what_decides_is_printed(whole):
    tables = {table.title: table for table in report_tables(whole[1], True)[0]}
    study = tables["Figure 5: what people say"]
    assert any("Krippendorff's alpha" in line for line in study.lines)
    assert "κ: LLM as it is, empathy: 0.25 (0.10 to 0.40) (4 of 5 the same)" in study.lines[-1]
    moved = {row["training"]: row for row in tables["What EPO moved, told from samples of before it"].rows}
    assert list(moved) == [
        "EPO",
        "EPO on pairs by another exchange's reply",
        "EPO less EPO on pairs by another exchange's reply",
    ]
    (alone,) = [
        row
        for row in tables["Trained on one dataset alone, tested on each: BERTScore"].rows
        if row["rung"] == "2-ft"
    ]
    assert "over the LLM as it is: +0.075" in alone["MELD"]
    verdicts = {row["stage"]: row["verdict"] for row in tables["Training: held out"].rows}
    assert verdicts["epo"] == "loss fell, the own history is not seen to help"
    assert tables["EPO beside its controls: EPO on random replies"].rows


def test_cells_are_the_pages_own(whole):
    """Each part of each figure's cell stands on the page, letter for letter."""
    page, facts = words(whole[0]), whole[1]
    cells = [
        (table.title, text)
        for table in report_tables(facts, True)[0]
        if not table.title.startswith(("Table 1", "Other", "What did", "Figure 5", "Preference pairs"))
        for row in table.rows
        for name, text in row.items()
        if name not in (table.columns[0], "what")
    ]
    assert len(cells) > 150
    for title, text in cells:
        for part in text.removesuffix(")").replace(" (", "; ").split("; "):
            assert part.rstrip(")") in page, (title, text)
    for answer in facts["answer"]:
        assert answer["says"] in page and answer["more"] in page


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
