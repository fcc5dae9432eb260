"""Two runs' reports -> what changed between them, and each figure then, now and its difference.

A difference has an interval where the same replies' figures are at hand of both runs: then it is paired, exchange by
exchange, and dialogues are resampled. Everywhere else the two intervals stand beside each other, and it is said why.
An interval here is of the exchanges that were drawn; another training seed's doing is in none of them. Knows nothing of
stores, HTML or terminals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from model.metrics.settings import BootstrapSettings
from model.metrics.verdict import LEARNED, WORSE, Verdict, verdict
from tasks.nested import leaves
from tasks.report.figures import FIGURES
from tasks.report.flat import Flat, flat_figures

ABSENT = "not there"
"""Of a setting, a count or a weight that one of the two does not have."""
COUNTS = ("dialogues", "utterances", "with_media", "features", "exchanges", "selected", "candidates", "pairs")
SCORERS = {figure.key: figure.scorer for figure in FIGURES}
PER_REPLY = {figure.key for figure in FIGURES if figure.per == "reply"}
RELATIVE = {figure.key for figure in FIGURES if figure.key.startswith("emotioncontrast")}
"""Less the mean over the true replies of all exchanges that a run answered."""
WORDS = {
    ("higher", LEARNED): "better", ("higher", WORSE): "worse", ("lower", LEARNED): "worse", ("lower", WORSE): "better",
    ("neither", LEARNED): "higher", ("neither", WORSE): "lower",
}  # fmt: skip
"""Which way is better, and the grade of now less then: in words."""


@dataclass(frozen=True)
class Side:
    """A run as it is compared. report: its report.json. replies: its by_reply.json, where that is at hand.

    card: who it is, for people: run, commit, profile, data, started.
    """

    report: dict
    replies: dict | None
    card: dict[str, str]


def compare(then: Side, now: Side) -> dict:
    """{"then", "now": cards, "changed": [{"what", "name", "then", "now"}], "answers": those of the first screen that differ,
    "figures": rows, "equal": figures that are the same in both, "gone", "new": names of figures that one alone has}.

    A row: table, of, figure, digits, then, then_ends, then_n, now, now_ends, now_n, difference; and, where it is
    paired, low, high, rows, dialogues, detectable; grade, in words; why it is not paired, else "".
    """
    before = {row.name: row for row in flat_figures(then.report)}
    after = {row.name: row for row in flat_figures(now.report)}
    both = [(before[name], row) for name, row in after.items() if name in before]
    rows = [_row(old, new, then, now) for old, new in both]
    differing = [row for row in rows if not _is_equal(row)]
    return {
        "then": then.card,
        "now": now.card,
        "changed": changes(then, now),
        "answers": answers(then, now),
        "figures": differing,
        "equal": len(rows) - len(differing),
        "gone": [row.title for name, row in before.items() if name not in after],
        "new": [row.title for name, row in after.items() if name not in before],
    }


# What changed -----------------------------------------------------------------------------------------


def changes(then: Side, now: Side) -> list[dict]:
    """Code and what was asked for, settings by dotted name, weights, data, what each training came to, and the grade of each
    answer of the first screen."""
    parts: dict[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
        "run": (then.card, now.card),
        "setting": (_settings(then.report), _settings(now.report)),
        "weights": (_weights(then.report), _weights(now.report)),
        "data": (_counts(then.report), _counts(now.report)),
        "training": (_grades(then.report), _grades(now.report)),
        "answer": (_answered(then.report, "grade"), _answered(now.report, "grade")),
    }
    rows = []
    for what, (old, new) in parts.items():
        for name in dict.fromkeys([*old, *new]):
            if name not in ("run", "started") and old.get(name) != new.get(name):
                rows.append(
                    {"what": what, "name": name, "then": old.get(name, ABSENT), "now": new.get(name, ABSENT)}
                )
    return rows


def answers(then: Side, now: Side) -> list[dict]:
    """{"about", "then_grade", "then", "now_grade", "now"} of each question of the first screen whose answer differs in grade or
    words; a question that one of the two does not ask is ABSENT there."""
    grades, says = ([_answered(side.report, name) for side in (then, now)] for name in ("grade", "says"))
    return [
        {"about": about, "then_grade": grades[0].get(about, ABSENT), "then": says[0].get(about, ABSENT),
         "now_grade": grades[1].get(about, ABSENT), "now": says[1].get(about, ABSENT)}
        for about in dict.fromkeys([*says[0], *says[1]])
        if any(side[0].get(about) != side[1].get(about) for side in (grades, says))
    ]  # fmt: skip


def _answered(report: dict, name: str) -> dict[str, str]:
    """Question of the first screen -> "grade" or what it "says"."""
    return {answer["about"]: answer[name] for answer in report.get("answer") or []}


def _settings(report: dict) -> dict[str, object]:
    return {".".join(names): value for names, value in leaves(report.get("settings") or {}, dict)}


def _weights(report: dict) -> dict[str, str]:
    return {role: f"{w['name']} ({w['identity']})" for role, w in (report.get("weights") or {}).items()}


def _counts(report: dict) -> dict[str, int]:
    splits = (report.get("counts") or {}).get("splits") or []
    return {f"{r['dataset']}/{r['split']}: {what}": r[what] for r in splits for what in COUNTS if what in r}


def _grades(report: dict) -> dict[str, str]:
    """Stage -> its verdict, or that it was not run, and why."""
    found = {}
    for stage, training in (report.get("training") or {}).items():
        if "not_run" in training:
            found[stage] = f"not run: {training['not_run']}"
        else:
            found[stage] = (training.get("verdict") or {}).get("grade") or "not judged"
    return found


# Figures ----------------------------------------------------------------------------------------------


def _row(old: Flat, new: Flat, then: Side, now: Side) -> dict:
    why = _unpaired(new, then, now)
    found = None if why else _paired(new, then, now)
    if found is not None and found.mean is None:
        why, found = "no exchange was answered in both", None
    return {
        "table": new.table,
        "of": new.of,
        "figure": new.figure,
        "key": new.key,
        "dataset": new.dataset,
        "digits": new.digits,
        "then": old.value,
        "then_ends": old.ends,
        "then_n": old.n,
        "now": new.value,
        "now_ends": new.ends,
        "now_n": new.n,
        # Paired, of the exchanges that both answered: not quite the difference of two means over more of them.
        "difference": new.value - old.value if found is None else found.mean,
        "low": found and found.low,
        "high": found and found.high,
        "rows": found and found.rows,
        "dialogues": found and found.dialogues,
        "detectable": found and found.detectable,
        "grade": "" if found is None else WORDS.get((new.better, found.grade), found.grade),
        "why": why,
    }


def _is_equal(row: dict) -> bool:
    """Whether nothing of the figure differs, reply by reply where that is known."""
    same = row["then"] == row["now"] and row["then_ends"] == row["now_ends"] and row["then_n"] == row["now_n"]
    return same and row["low"] in (None, 0.0) and row["high"] in (None, 0.0)


def _unpaired(row: Flat, then: Side, now: Side) -> str:
    """Why a figure's rows cannot be compared in pairs; "" where they can."""
    if row.key and not _same_scorer(SCORERS[row.key], then.report, now.report):
        return "another scorer measured it: levels do not compare"
    if row.key not in PER_REPLY:
        return "not kept reply by reply"
    if row.rung.startswith("floor-"):
        return "of floors no single replies are kept"
    if row.key in RELATIVE and _exchanges(then, row) != _exchanges(now, row):
        return "the runs answered different exchanges, to whose true replies it is relative"
    absent = [
        side.card["run"]
        for side in (then, now)
        if row.rung not in ((side.replies or {}).get("figures") or {})
    ]
    return f"single replies of {' and '.join(absent)} are not at hand" if absent else ""


def _exchanges(side: Side, row: Flat) -> list:
    return [e for e in (side.replies or {}).get("exchanges") or [] if row.dataset in ("all", e[0])]


def _same_scorer(role: str, old: dict, new: dict) -> bool:
    if not role:
        return True
    if role == "BERTScore" and old.get("bertscore") != new.get("bertscore"):
        return False
    identities = [((report.get("weights") or {}).get(role) or {}).get("identity") for report in (old, new)]
    scoring = [(report.get("settings") or {}).get("scorer") for report in (old, new)]
    return identities[0] == identities[1] and (role == "BERTScore" or scoring[0] == scoring[1])


def _paired(row: Flat, then: Side, now: Side) -> Verdict:
    """Of now less then, over the exchanges with the same sentence and true reply that both answered."""
    old, new = (_values(side.replies or {}, row) for side in (then, now))
    common = [name for name in new if name in old]
    intervals = ((now.report.get("settings") or {}).get("metrics") or {}).get("intervals") or {}
    differences = [new[name] - old[name] for name in common]
    return verdict(differences, [name[:3] for name in common], BootstrapSettings.model_validate(intervals))


def _values(replies: dict, row: Flat) -> dict[tuple, float]:
    """(dataset, split, dialogue, turn, digest of what was said) -> the figure."""
    values = replies["figures"][row.rung].get(row.key) or []
    named = zip(map(tuple, replies["exchanges"]), values, strict=False)
    return {
        name: value
        for name, value in named
        if value is not None and math.isfinite(value) and row.dataset in ("all", name[0])
    }
