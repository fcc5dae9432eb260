"""Every figure of a report's tables as flat rows, so that two reports can be laid side by side. Reads report.json alone.

A report that lacks a table, because its run did not come to it or an earlier version wrote it, has no rows of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tasks.report.figures import FIGURES
from tasks.stages.replies.rungs import RUNGS

STEP_FIGURES = tuple(figure for figure in FIGURES if figure.steps or figure.control)
TITLES = {rung.name: f"{rung.name.split('-')[0]} {rung.title}" for rung in RUNGS}
LADDER, BY_DATASET = "Table 2", "Table 1"
RESTORED = ("bleu_1", "bleu_4", "bertscore", "exact")
LONG = (
    ("tokens", "lower", 1),
    ("seconds", "lower", 4),
    ("gigabytes", "lower", 2),
    ("bertscore", "higher", 3),
)
PAIRS = {
    "threshold": "threshold in force",
    "kept_share": "exchanges that keep a pair",
    "usable_share": "candidates usable",
}


@dataclass(frozen=True)
class Flat:
    """One figure. table, of, figure: which; together they name it. ends: its interval, None where it has none.

    n: of how many. better: "higher", "lower" or "neither". key, rung, dataset: of a measured system's, by which its
    values reply by reply are found; else "".
    """

    table: str
    of: str
    figure: str
    value: float
    ends: tuple[float, float] | None = None
    n: int | None = None
    better: str = "higher"
    digits: int = 3
    key: str = ""
    rung: str = ""
    dataset: str = ""

    @property
    def name(self) -> tuple[str, str, str]:
        return (self.table, self.of, self.figure)


def flat_figures(report: dict) -> list[Flat]:
    """In the order of the page; figures that were not measured are no rows."""
    parts = (
        _systems,
        _steps,
        _controls,
        _prompts,
        _long_history,
        _memory_ladder,
        _recognition,
        _restored,
        _trainings,
        _pairs,
    )
    return [row for part in parts for row in part(report)]


def _systems(report: dict) -> Iterator[Flat]:
    """Of all datasets together first."""
    rows = report.get("systems") or []
    for row in sorted(rows, key=lambda row: row["dataset"] != "all"):
        whole = row["dataset"] == "all"
        title = TITLES.get(row["rung"], row["system"])
        for figure in (f for f in FIGURES if row.get(f.key) is not None):
            yield Flat(
                LADDER if whole else BY_DATASET,
                title if whole else f"{row['dataset']}: {title}",
                figure.title,
                row[figure.key],
                _ends(row.get(f"{figure.key}_ci")),
                row["n"] - row.get(f"{figure.key}_left_out", 0),
                figure.better,
                figure.digits,
                figure.key,
                row["rung"],
                row["dataset"],
            )


def _steps(report: dict) -> Iterator[Flat]:
    for step in report.get("steps") or []:
        of = f"{TITLES.get(step['rung'], step['rung'])} over {step['against']}"
        for figure in STEP_FIGURES:
            yield from _verdict("What each rung adds", of, figure.title, step.get(figure.key))


def _controls(report: dict) -> Iterator[Flat]:
    for control in (report.get("controls") or {}).values():
        of = f"EPO less {TITLES.get(control['control'], control['control'])}"
        for figure in STEP_FIGURES:
            found = (control.get(figure.key) or {}).get("difference")
            yield from _verdict("EPO beside its controls", of, figure.title, found)


def _prompts(report: dict) -> Iterator[Flat]:
    for row in report.get("table_3") or []:
        if row.get("run") is not None:
            yield Flat("All prompts", row["system"], "prompt tokens", row["run"], better="lower", digits=1)


def _long_history(report: dict) -> Iterator[Flat]:
    found = report.get("long_history") or {}
    for form, row in (found.get("forms") or {}).items():
        for name, better, digits in LONG:
            if row.get(name) is not None:
                ends = _ends(row.get(f"{name}_ci"))
                yield Flat(
                    "Table 3", f"history as {form}", name, row[name], ends, found["exchanges"], better, digits
                )


def _memory_ladder(report: dict) -> Iterator[Flat]:
    for arm in ((report.get("memory_ladder") or {}).get("arms") or {}).values():
        if arm.get("own") is not None:
            yield Flat(
                "Memory ladder", arm["title"], "nats a token", arm["own"], _ends(arm.get("own_ci")), arm["n"], "lower"
            )  # fmt: skip
        yield from _verdict("Memory ladder", arm["title"], "other − own", arm.get("gain"))


def _recognition(report: dict) -> Iterator[Flat]:
    for name, row in ((report.get("recognition") or {}).get("accuracy") or {}).items():
        yield Flat("Figure 6", name, "accuracy", row["accuracy"], _ends(row.get("accuracy_ci")), row["clips"])


def _restored(report: dict) -> Iterator[Flat]:
    restored = report.get("reconstruction") or {}
    for kind, title in (("own", "its own memories"), ("other", "another conversation's")):
        row = restored.get(kind) or {}
        for name in RESTORED:
            if row.get(name) is not None:
                yield Flat("Table 8", title, name, row[name], _ends(row.get(f"{name}_ci")), row["n"])


def _trainings(report: dict) -> Iterator[Flat]:
    for stage, found in (report.get("training") or {}).items():
        after = found.get("heldout_after")
        loss = after.get("loss") if isinstance(after, dict) else after
        if loss is not None:
            yield Flat("Training", stage, "held-out loss, after", loss, better="lower")


def _pairs(report: dict) -> Iterator[Flat]:
    pairs = report.get("pairs") or {}
    for name, title in PAIRS.items():
        if pairs.get(name) is not None:
            yield Flat("Preference pairs", "all", title, pairs[name], better="neither")


def _verdict(table: str, of: str, figure: str, found: dict | None) -> Iterator[Flat]:
    """Of a paired difference, as model/metrics/verdict.py grades it."""
    if found and found.get("mean") is not None:
        yield Flat(
            table, of, figure, found["mean"], _ends((found.get("low"), found.get("high"))), found.get("rows")
        )


def _ends(ends) -> tuple[float, float] | None:
    return None if not ends or ends[0] is None else (ends[0], ends[1])
