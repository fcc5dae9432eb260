"""A comparison of two runs as a section of the page, and as rows for a terminal. Knows nothing of stores.

The page itself is an artefact; the section is not, and stands in a copy of the page alone.
"""

from __future__ import annotations

import json
from collections import Counter

from model.metrics.verdict import NO_DIFFERENCE
from tasks.report.cells import number
from tasks.report.figures import FIGURES
from tasks.report.flat import IN_PARTS
from tasks.report.render import page_environment
from tasks.report.templates import template
from tasks.stages.verdicts import interval_text

MARK = "<!-- against -->"
"""Where the section goes in the page; a page that has none gets it at its end."""
END = "</main>"
FIRST = {figure.key for figure in FIGURES if figure.paper or figure.steps}
"""The measured systems' figures that are shown before any other."""
RUN_COLUMNS = ("", "then", "now")
CHANGED_COLUMNS = ("what", "which", "then", "now")
ANSWER_COLUMNS = ("question", "then", "now")
FIGURE_COLUMNS = ("of", "figure", "then", "now", "difference", "")
SHORT = 60
"""Characters of a value that changed, in a terminal."""


def leading(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """Rows that are shown first, and the others: those of tables that part another one, and of systems what is neither the
    paper's nor told of steps."""
    first = [row for row in rows if row["table"] not in IN_PARTS and (not row["key"] or row["key"] in FIRST)]
    return first, [row for row in rows if row not in first]


def with_section(page: str, comparison: dict) -> str:
    """The page with the section in it."""
    first, rest = leading(comparison["figures"])
    environment = page_environment({})
    environment.filters["flat_rows"] = flat_rows
    section = environment.from_string(template("against.html.j2")).render(
        c=comparison, first=first, rest=rest, whys=reasons(comparison), no_difference=NO_DIFFERENCE
    )
    mark = MARK if MARK in page else END
    return page.replace(mark, section + ("" if mark == MARK else END), 1)


def reasons(comparison: dict) -> dict[str, int]:
    """Why figures are not paired -> of how many."""
    return dict(Counter(row["why"] for row in comparison["figures"] if row["why"]).most_common())


def flat_rows(rows: list[dict]) -> list[dict]:
    """For CSV: ends in columns of their own."""
    flat = []
    for row in rows:
        ends = {f"{who}_{end}": pair[i] if (pair := row[f"{who}_ends"]) else None
                for who in ("then", "now") for i, end in enumerate(("low", "high"))}  # fmt: skip
        flat.append({name: value for name, value in row.items() if not name.endswith("_ends")} | ends)
    return flat


def run_rows(comparison: dict) -> list[dict]:
    """Of RUN_COLUMNS: who the two are."""
    then, now = comparison["then"], comparison["now"]
    return [{"": name, "then": then.get(name, ""), "now": now[name]} for name in now]


def changed_rows(comparison: dict) -> list[dict]:
    """Of CHANGED_COLUMNS; what the cards tell already is left out."""
    return [
        {"what": row["what"], "which": row["name"], "then": _short(row["then"]), "now": _short(row["now"])}
        for row in comparison["changed"]
        if row["what"] != "run"
    ]


def answer_rows(comparison: dict) -> list[dict]:
    """Of ANSWER_COLUMNS: the first screen's answers that differ."""
    return [
        {"question": row["about"], **{who: _answer(row[f"{who}_grade"], row[who]) for who in ("then", "now")}}
        for row in comparison["answers"]
    ]


def _answer(grade: str, says: str) -> str:
    return grade if grade == says else f"{grade}: {says}"


def figure_rows(rows: list[dict], intervals: bool) -> list[dict]:
    """Of FIGURE_COLUMNS. intervals: whether there is room for them beside then and now."""
    return [
        {
            "of": f"{row['table']}: {row['of']}",
            "figure": row["figure"],
            "then": _with_ends(row["then"], row["then_ends"], row["digits"], intervals),
            "now": _with_ends(row["now"], row["now_ends"], row["digits"], intervals),
            "difference": _difference(row),
            "": _verdict(row),
        }
        for row in rows
    ]


def _difference(row: dict) -> str:
    ends = None if row["low"] is None else (row["low"], row["high"])
    sign = "+" if row["difference"] > 0 else ""
    return sign + _with_ends(row["difference"], ends, row["digits"], True)


def _with_ends(value: float, ends: tuple | list | None, digits: int, intervals: bool) -> str:
    return number(value, digits) + (
        f" ({interval_text(ends[0], ends[1], digits)})" if ends and intervals else ""
    )


def _verdict(row: dict) -> str:
    if row["why"]:
        return "not paired"
    counted = f", n = {row['rows']} ({row['dialogues']} dialogues)"
    seen = f", {number(row['detectable'], row['digits'])} could have been" if row["detectable"] else ""
    return f"{row['grade']}{counted}{seen if row['grade'] == NO_DIFFERENCE else ''}"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
