"""The report's tables as columns and rows, from report.json alone: what `empamba report` prints. Cells are the page's own.

Knows nothing of terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tasks.report import method_tables as method
from tasks.report.cells import (
    ABSENT,
    Cell,
    changed,
    compared,
    count,
    counted,
    graded,
    interval,
    measured,
    number,
    percent,
)
from tasks.report.figures import FIGURES, FURTHER, MAIN, OF_TEXTS, STEPS, Figure
from tasks.report.paper_tables import TABLE_2_TITLE, TABLE_3, TABLE_3_CHANGE, TABLE_3_FORMS
from tasks.report.table import Table
from tasks.report.table_1 import by_dataset, titles_of

AT_ONCE = 6
"""Figures of a table of further figures."""
GENERAL = tuple(figure for figure in FIGURES if figure.paper or figure.steps)
"""Of generalisation."""
LONG = (("tokens", "input, tokens", 1), ("gigabytes", "memory, GB", 2), ("seconds", "time, s", 4), ("bertscore", "BERTScore", 3))  # fmt: skip


def report_tables(facts: dict, intervals: bool) -> tuple[list[Table], list[str]]:
    """The tables that the run has, in the order of the page, and the names of those it has not.

    intervals: whether tables of systems have room for them; other tables always tell them.
    """
    made = parts(facts, intervals)
    return [table for tables in made.values() for table in tables], [
        name for name, tables in made.items() if not tables
    ]


def parts(facts: dict, intervals: bool) -> dict[str, list[Table]]:
    """Each part of the page by name, with its tables that have rows."""
    named: dict[str, Callable[[], Iterator[Table]]] = {
        "What did this run show, and what did it not?": lambda: _answers(facts),
        "Table 2": lambda: _table_2(facts, intervals),
        "steps": lambda: _steps(facts),
        "floors": lambda: _over(facts, "over_floors", "systems that read nothing", OF_TEXTS),
        "more about the replies": lambda: _further(facts, intervals),
        "EPO beside its controls": lambda: method.controls(facts),
        "what EPO moved": lambda: method.moved(facts),
        "memory ladder": lambda: method.memory_ladder(facts),
        "Table 3": lambda: _table_3(facts),
        "Table 1": lambda: _table_1(facts, intervals),
        "generalisation": lambda: _generalisation(facts, intervals),
        "other systems": lambda: _other_systems(facts),
        "what the last rung has over other systems": lambda: _over(
            facts, "over_systems", "other systems", STEPS
        ),
        "judge": lambda: _judge(facts),
        "Figure 5": lambda: method.study(facts),
        "training": lambda: method.training(facts),
        "Figure 6": lambda: method.figure_6(facts),
        "Table 8": lambda: method.table_8(facts),
        "preference pairs": lambda: method.pairs(facts),
    }
    return {name: [table for table in tables() if table.rows] for name, tables in named.items()}


def _answers(facts: dict) -> Iterator[Table]:
    rows = [
        {"question": a["about"], "grade": a["grade"], "answer": f"{a['says']} {a.get('more', '')}".strip()}
        for a in facts["answer"]
    ]
    yield Table("What did this run show, and what did it not?", ("question", "grade", "answer"), rows)


def _table_2(facts: dict, intervals: bool) -> Iterator[Table]:
    rows, lines = [], []
    for row in facts["ladder"]:
        name = row["rung"]
        if row["run"]:
            rows.append(_system(name, row["title"], row["run"], intervals))
        else:
            lines.append(f"{name}: not run: {row['not_run'] or 'no replies'}")
        if row["flagged"]:
            same = row["identical"]
            lines.append(f"{name}: {percent(same['share'], 0)} identical to {same['rung']}")
        if row["paper"]:
            rows.append(_paper(f"paper: {name}", row["paper"]))
    yield Table(
        f"Table 2: the ladder; the paper's is of {TABLE_2_TITLE}", _columns(intervals), rows, tuple(lines)
    )


def _columns(intervals: bool) -> tuple[str, ...]:
    figures = tuple(figure.short for figure in MAIN)
    return ("rung", *(("what",) if intervals else ()), *figures, "n")


def _system(name: str, title: str, row: dict, intervals: bool) -> dict:
    return {
        "rung": name,
        "what": title,
        **{figure.short: measured(row, figure).line(intervals) for figure in MAIN},
        "n": counted(row).line() if intervals else counted(row).value,
    }


def _paper(label: str, figures: dict) -> dict:
    shown = {figure.short: number(figures[figure.key], figure.digits) for figure in MAIN}
    return {"rung": label, "what": "", "n": ABSENT, **shown}


def _further(facts: dict, intervals: bool) -> Iterator[Table]:
    """What the paper does not print of the rungs' replies: a table of its own for each few figures, which 80 columns hold."""
    for start in range(0, len(FURTHER), AT_ONCE):
        figures = FURTHER[start : start + AT_ONCE]
        rows = [
            {"rung": row["rung"], **{f.title: measured(row["run"], f).line(intervals) for f in figures}}
            for row in facts["ladder"]
            if row["run"]
        ]
        title = f"More about the replies: {', '.join(figure.short for figure in figures)}"
        yield Table(title, ("rung", *(figure.title for figure in figures)), rows)
    rows = [
        {
            "rung": row["rung"],
            "identical": percent(row["identical"]["share"], 0),
            "to": row["identical"]["rung"],
        }
        for row in facts["ladder"]
        if row["run"] and row["identical"]
    ]
    yield Table("Replies identical to another rung's", ("rung", "identical", "to"), rows)


def _steps(facts: dict) -> Iterator[Table]:
    titles = titles_of(facts["other_systems"])
    rows = [
        {"step": f"{_place(row['rung'])} over {_place(row['against'])}: {titles.get(row['rung'], row['rung'])}",
         **_verdicts(row, STEPS)}
        for row in facts["steps"]
    ]  # fmt: skip
    yield Table("What each rung adds to the one before", ("step", "n", *(f.title for f in STEPS)), rows)


def _over(facts: dict, table: str, what: str, figures: tuple) -> Iterator[Table]:
    """What the last rung has over others."""
    rows = [{"over": row["system"], **_verdicts(row, figures)} for row in facts[table]]
    rung = _place(facts[table][0]["rung"]) if rows else ""
    yield Table(f"What rung {rung} has over {what}", ("over", "n", *(f.title for f in figures)), rows)


def _verdicts(row: dict, figures: tuple) -> dict:
    n, cells = compared(row, figures)
    return {"n": n.line(), **{figure.title: cell.line() for figure, cell in zip(figures, cells, strict=True)}}


def _place(rung: str) -> str:
    return rung.split("-")[0]


def _table_3(facts: dict) -> Iterator[Table]:
    long = facts["long_history"] or {}
    rows: list[dict] = []
    if long.get("exchanges"):
        n = counted({"n": long["exchanges"], "dialogues": long["dialogues"]}).line()
        for title, form in TABLE_3_FORMS.items():
            found = long["forms"][form]
            figures = {
                head: Cell(number(found.get(key), digits), interval(found.get(f"{key}_ci"), digits)).line()
                for key, head, digits in LONG
            }
            rows.append({"memories": title, "n": n, **figures})
        for floor in long.get("floors") or ():
            score = Cell(number(floor["bertscore"]), interval(floor["bertscore_ci"])).line()
            rows.append({"memories": floor["title"], "n": counted(floor).line(), "BERTScore": score})
        rows.append(
            {"memories": "change, paired"}
            | {head: changed(long, key, digits).line() for key, head, digits in LONG}
        )
        keys = {"tokens": "input", "gigabytes": "memory_gb"}
        for title, paper in TABLE_3.items():
            figures = {head: number(paper[keys.get(key, key)], digits) for key, head, digits in LONG}
            rows.append({"memories": f"paper: {title}", "n": ABSENT, **figures})
        rows.append(
            {"memories": "paper: change", "n": ABSENT} | {head: TABLE_3_CHANGE[key] for key, head, _ in LONG}
        )
    yield Table("Table 3: long histories", ("memories", *(head for _, head, _ in LONG), "n"), rows)


def _table_1(facts: dict, intervals: bool) -> Iterator[Table]:
    names = facts["counts"]["titles"]
    for part in by_dataset(facts["systems"], facts["other_systems"]):
        rows: list[dict] = []
        for row in part["rows"]:
            rows.append(_system(row["rung"], row["system"], row, intervals))
            if row["paper"]:
                rows.append(_paper(row["paper_system"], row["paper"]))
        rows += [_paper(row["title"], row["paper"]) for row in part["others"] if row["paper"]]
        title = (
            f"Table 1: {names.get(part['dataset'], part['dataset'])}, {part['split']}; without n: the paper's"
        )
        yield Table(title, _columns(intervals), rows)


def _generalisation(facts: dict, intervals: bool) -> Iterator[Table]:
    """One run's row of the matrix of datasets; then what was trained on one dataset alone, a table for each figure."""
    names = facts["counts"]["titles"]
    rows = [
        {
            "tested on": names.get(part["dataset"], part["dataset"]),
            "train exchanges of it": count(part["train_exchanges"])
            if part["train_exchanges"]
            else "out of domain",
            "rung": row["rung"],
            **{figure.title: measured(row, figure).line(intervals) for figure in GENERAL},
            "n": counted(row).line(),
        }
        for part in facts["generalisation"]
        for row in part["rows"]
    ]
    columns = ("tested on", "train exchanges of it", "rung", *(figure.title for figure in GENERAL), "n")
    yield Table("Generalisation: trained on all, tested on each", columns, rows)
    tested = {
        part["dataset"]: names.get(part["dataset"], part["dataset"]) for part in facts["generalisation"]
    }
    for figure in STEPS:
        rows = [
            {
                "trained on": names.get(row["trained_on"], row["trained_on"]),
                "rung": f"not run: {row['not_run']}",
            }
            if row["not_run"]
            else {
                "trained on": names.get(row["trained_on"], row["trained_on"]),
                "rung": row["rung"],
                **{title: _tested(row["tested"].get(name), figure) for name, title in tested.items()},
            }
            for row in facts["trained_on"]
        ]
        title = f"Trained on one dataset alone, tested on each: {figure.title}"
        yield Table(title, ("trained on", "rung", *tested.values()), rows)


def _tested(cell: dict | None, figure: Figure) -> str:
    if cell is None:
        return ABSENT
    over = graded(cell["over"][figure.key]).line() if figure.key in cell["over"] else ABSENT
    return f"{measured(cell, figure).line()}; n = {counted(cell).line()}; over the LLM as it is: {over}"


def _other_systems(facts: dict) -> Iterator[Table]:
    columns = (
        "system",
        "table 1",
        "model",
        "answered",
        "failed",
        "retries",
        "prompt tokens",
        "reply tokens",
        "cost",
        "not run",
    )
    yield Table("Other systems", columns, [_asked(row) for row in facts["other_systems"]])


def _asked(row: dict) -> dict:
    if row["not_run"] is not None:
        return {"system": row["title"], "table 1": row["paper"] or ABSENT, "not run": row["not_run"]}
    cost = row["cost"]
    least = "at least " if cost and cost["least"] else ""
    return {
        "system": row["title"],
        "table 1": row["paper"] or ABSENT,
        "model": row["model"],
        "answered": f"{count(row['answered'])} of {count(row['exchanges'])}",
        "failed": _failed(row["failures"]),
        "retries": count(row["retries"]),
        "prompt tokens": count(row["prompt_tokens"])
        + (f"; {count(row['uncounted'])} not counted" if row["uncounted"] else ""),
        "reply tokens": count(row["reply_tokens"]),
        "cost": f"{least}{number(cost['amount'], 4)} {cost['currency']}" if cost else ABSENT,
    }


def _failed(failures: dict[str, int]) -> str:
    """How many, and why."""
    why = (f"{reason} {count(n)}" for reason, n in failures.items())
    return "; ".join([count(sum(failures.values())), *why])


def _judge(facts: dict) -> Iterator[Table]:
    titles = titles_of(facts["other_systems"])
    rows = []
    for pair in facts["judge"]:
        first, second = (titles.get(pair[side], pair[side]) for side in ("first", "second"))
        for question, found in pair["questions"].items():
            better = " is better" if found["grade"] in ("first", "second") else ""
            rows.append(
                {
                    "first, second": f"{first}, {second}: {question}",
                    "judged": f"{count(pair['judged'])} of {count(pair['exchanges'])}",
                    "failed": _failed(pair["failures"]),
                    "orders agree": f"{count(found['agreed'])}; {_with_ends(found['agreement'], percent, 0)}",
                    "first": count(found["first"]),
                    "tie": count(found["tie"]),
                    "second": count(found["second"]),
                    "first's share of wins": _with_ends(found["share"], number, 2),
                    "verdict": f"{found['grade']}{better}",
                }
            )
    columns = tuple(rows[0]) if rows else ()
    yield Table("Who replies better, to a judge", columns, rows)


def _with_ends(found: list[float] | None, shown: Callable[[float, int], str], digits: int) -> str:
    """A judge's figure, with the ends of its interval where it has some."""
    if not found:
        return ABSENT
    value, *ends = found
    return Cell(shown(value, digits), interval(ends, 2)).line()
