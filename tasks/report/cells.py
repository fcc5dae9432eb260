"""What stands in a table's cells, in words: page and terminal print the same. Knows nothing of HTML or terminals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.metrics.verdict import LEARNED
from tasks.report.figures import Figure
from tasks.stages.verdicts import interval_text

ABSENT = "–"
ABOVE = "above zero"
"""What a cell says of a difference that a verdict calls learned."""


@dataclass(frozen=True)
class Cell:
    """A figure as it is printed. interval, grade: "" where there is none; notes: what else is to be told of it."""

    value: str
    interval: str = ""
    grade: str = ""
    notes: tuple[str, ...] = ()

    def line(self, intervals: bool = True) -> str:
        """All of it in one line: "+0.010 (−0.020 to 0.040); no difference seen; 0.043 could have been".

        intervals: whether there is room for them.
        """
        value = f"{self.value} ({self.interval})" if self.interval and intervals else self.value
        return "; ".join(part for part in (value, self.grade, *self.notes) if part)


def measured(row: dict, figure: Figure) -> Cell:
    """A figure of a system, with how many replies it is of where some have none."""
    value, left_out = row.get(figure.key), row.get(f"{figure.key}_left_out")
    ends = interval(row.get(f"{figure.key}_ci"), figure.digits) if value is not None else ""
    told = f"n = {count(row['n'] - left_out)}; {count(left_out)} left out" if left_out else ""
    return Cell(
        number(value, figure.digits), ends, notes=_said(told, _over_seeds(row, figure.key, figure.digits))
    )


def compared(row: dict, figures: Sequence[Figure]) -> tuple[Cell, list[Cell]]:
    """A row of verdicts: how many exchanges both answered and how many only one did, and each figure's cell, with its own
    number where that is another."""
    most = max((row[figure.key] for figure in figures), key=lambda found: found["rows"])
    left_out = row.get("left_out") or 0
    alone = sum(left_out.values()) if isinstance(left_out, dict) else left_out
    told = f"{count(alone)} answered by one alone left out" if alone else ""
    n = Cell(count(most["rows"]), notes=_said(of_dialogues(most["dialogues"]), told))
    return n, [graded(row[figure.key], most["rows"]) for figure in figures]


def graded(found: dict, n: int | None = None) -> Cell:
    """A verdict on a difference. n: what is told already of how many there are; where they are others, the cell says it."""
    own = ""
    if n is not None and found["rows"] != n:
        own = f"n = {count(found['rows'])} {of_dialogues(found['dialogues'])}"
    if found["mean"] is None:
        return Cell("", grade=found["grade"], notes=_said(own))
    shown = found["grade"] == LEARNED
    could = f"{number(found['detectable'])} could have been" if found.get("detectable") and not shown else ""
    return Cell(
        signed(found["mean"]),
        interval([found["low"], found["high"]]),
        ABOVE if shown else found["grade"],
        _said(could, own, over_seeds(found.get("seeds"))),
    )


def changed(long: dict, name: str, digits: int) -> Cell:
    """Of a figure of table 3, memories less text: paired where it is of single prompts, with its share of text's."""
    found, text, memory = long["changes"].get(name), long["forms"]["text"], long["forms"]["memory"]
    if found and found["mean"] is not None:
        of_text = (
            "" if found["share"] is None or name == "bertscore" else f" ({_signed_percent(found['share'])})"
        )
        ends = interval([found["low"], found["high"]], digits)
        return Cell(f"{signed(found['mean'], digits)}{of_text}", ends)
    if name == "gigabytes" and text[name]:
        of_text = f" ({_signed_percent(memory[name] / text[name] - 1)})"
        return Cell(f"{signed(memory[name] - text[name], digits)}{of_text}")
    return Cell(ABSENT)


def counted(row: dict) -> Cell:
    """How many replies, and of how many dialogues where that is known."""
    dialogues = row.get("dialogues")
    return Cell(count(row["n"]), notes=_said("" if dialogues is None else of_dialogues(dialogues)))


def of_dialogues(dialogues: int) -> str:
    return f"of {count(dialogues)} dialogue{'' if dialogues == 1 else 's'}"


def over_seeds(spread: dict | None, digits: int = 3) -> str:
    """How far several trainings of other seeds spread; "" where there was one."""
    if not spread or spread["sd"] is None:
        return ""
    return f"{spread['n']} seeds: {number(spread['mean'], digits)} ± {number(spread['sd'], digits)}"


def _over_seeds(row: dict, key: str, digits: int) -> str:
    return over_seeds(row.get(f"{key}_seeds"), digits)


def _said(*notes: str) -> tuple[str, ...]:
    return tuple(note for note in notes if note)


# Numbers ----------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference, with its sign."""
    return ("+" if value is not None and value > 0 else "") + number(value, digits)


def _signed_percent(value: float) -> str:
    return ("+" if value > 0 else "") + percent(value)


def percent(value: float | None, digits: int = 1) -> str:
    return ABSENT if value is None else f"{100 * value:.{digits}f} %".replace("-", "−")


def interval(value: list[float] | None, digits: int = 3) -> str:
    if not value or value[0] is None:
        return ""
    return interval_text(value[0], value[1], digits)


def percents(value: list[float] | None, digits: int = 1) -> str:
    """An interval of a share."""
    return f"{percent(value[0], digits)} to {percent(value[1], digits)}" if value else ""


def count(value: int | None) -> str:
    return ABSENT if value is None else f"{value:,}"
