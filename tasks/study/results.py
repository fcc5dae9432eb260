"""A study's results as files in its folder and as rows for a terminal. Knows nothing of servers."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from storage.store import write_atomic
from tasks.report import plots
from tasks.report.figures import csv_of
from tasks.report.rows import study_rows
from tasks.study.judgements import NAME, collect
from tasks.study.score import scored
from tasks.study.study import read_study


def write_results(folder: Path, keep_inattentive: bool) -> tuple[dict, list[Path]]:
    """The figures, and the files that were written, judgements first."""
    study = read_study(folder)
    found = collect(folder, study, keep_inattentive)
    facts = scored(found, power=study.power)
    facts["unplayable"] = found.unplayable
    shown = {**facts, "scale": {str(value): word for value, word in facts["scale"].items()}}
    drawn = base64.b64decode(plots.study(shown).partition(",")[2])
    files = {
        NAME: found.as_bytes(),
        "score.json": json.dumps(facts, ensure_ascii=False).encode(),
        "score.csv": csv_of(study_rows(facts)),
        "figure-5.svg": drawn,
    }
    for name, data in files.items():
        write_atomic(folder / name, data)
    return facts, [folder / name for name in files]


def mean_rows(facts: dict) -> tuple[tuple[str, ...], list[dict]]:
    """Columns and rows of the means over all datasets."""
    rows = []
    for system in facts["systems"]:
        row = {"system": system["title"]}
        for question in facts["questions"]:
            found = system["questions"][question]["all"]
            row |= {question: _shown(found), "judgements": found["judgements"]}
        rows.append(row)
    return ("system", *facts["questions"], "judgements"), rows


def difference_rows(facts: dict) -> tuple[tuple[str, ...], list[dict]]:
    """Columns and rows of the differences. shown: the smallest true one that this study would have shown."""
    titles = {system["system"]: system["title"] for system in facts["systems"]}
    rows = [
        {
            "less": titles[row["second"]],
            "question": row["question"],
            "difference": _shown(row),
            "better": titles.get(row[row["grade"]], "") if row["grade"] in row else row["grade"],
            "shown": None if row["detectable"] is None else f"{row['detectable']:.2f}",
        }
        for row in facts["differences"]
    ]
    return ("less", "question", "difference", "better", "shown"), rows


def _shown(found: dict) -> str | None:
    if found["mean"] is None:
        return None
    ends = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{found['mean']:.2f}{ends}"
