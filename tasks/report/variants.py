"""What other training seeds, and trainings on one dataset alone, came to: how far figures spread, and a matrix of datasets.

An interval elsewhere is of the dialogues that were drawn; the spread here is of what a training starts from. Knows nothing
of HTML.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence

from model.metrics.settings import BootstrapSettings
from model.metrics.verdict import verdict
from storage.store import Store
from tasks.report.answer import NOT_RUN, SHOWN
from tasks.report.counts import Artefacts, read_named
from tasks.report.figures import FIGURES, STEPS
from tasks.report.rungs import FLOORS
from tasks.stages.replies.rungs import RUNGS
from tasks.variants import of_dataset, of_seed

TRAINED = {rung.name for rung in RUNGS if rung.adapter}
BASE = "1-llm"
"""What every training of the matrix is compared with: the LLM as it came."""
ALL, NOTHING = "all", "nothing"


# Seeds ------------------------------------------------------------------------------------------------


def seed_artefacts(seeds: Sequence[int], variants: dict[str, Artefacts]) -> dict[int, Artefacts]:
    """Seed -> what its stages made, of the seeds beyond the first that were run."""
    return {seed: variants[of_seed(seed)] for seed in seeds[1:] if of_seed(seed) in variants}


def mean_and_sd(values: Sequence[float | None]) -> dict:
    """{"values": one a seed, None where there is none, "n", "mean", "sd"}; sd: of a sample, None of fewer than two."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return {
        "values": list(values),
        "n": len(known),
        "mean": round(statistics.fmean(known), 6) if known else None,
        "sd": round(statistics.stdev(known), 6) if len(known) > 1 else None,
    }


def with_seeds(metrics: dict, others: Sequence[dict], trained: Collection[str] = ()) -> dict:
    """metrics.json with "KEY_seeds" beside each figure of a trained rung, and "seeds" in each verdict on one: spreads over
    this run's seed and the others', whose metrics.json are given. Unchanged where there are none.

    trained: the systems beside the rungs that were trained, by their rows' labels."""
    if not others or not metrics:
        return metrics
    found = {
        **metrics,
        "systems": [_system(row, others, TRAINED | set(trained)) for row in metrics["systems"]],
    }
    for name in ("steps", "over_floors", "over_systems"):
        found[name] = [_compared(row, name, others) for row in metrics.get(name) or []]
    return found


def _system(row: dict, others: Sequence[dict], trained: Collection[str]) -> dict:
    if row["rung"] not in trained:
        return row
    twins = [_twin(other.get("systems") or [], row, ("rung", "dataset")) for other in others]
    return row | {
        f"{figure.key}_seeds": mean_and_sd([row[figure.key], *(twin.get(figure.key) for twin in twins)])
        for figure in FIGURES
        if figure.key in row
    }


def _compared(row: dict, table: str, others: Sequence[dict]) -> dict:
    twins = [_twin(other.get(table) or [], row, ("rung", "against")) for other in others]
    return row | {
        key: found
        | {"seeds": mean_and_sd([found["mean"], *((twin.get(key) or {}).get("mean") for twin in twins)])}
        for key, found in row.items()
        if isinstance(found, dict) and "grade" in found
    }


def judged_with_seeds(judged: list[dict], others: Sequence[list[dict]]) -> list[dict]:
    """What a judge said of each pair, with "seeds" in each question: the spread of the first's share of wins over this run's
    seed and the others' judgements, which are given. Unchanged where there are none."""
    if not any(others):
        return judged
    found = []
    for one in judged:
        twins = [_twin(other, one, ("first", "second")) for other in others]
        questions = {
            question: said
            | {"seeds": mean_and_sd([_share(one, question), *(_share(t, question) for t in twins)])}
            for question, said in one["questions"].items()
        }
        found.append(one | {"questions": questions})
    return found


def _share(judged: dict, question: str) -> float | None:
    share = (judged.get("questions") or {}).get(question, {}).get("share")
    return share[0] if share else None


def _twin(rows: Sequence[dict], row: dict, names: tuple[str, ...]) -> dict:
    return next((other for other in rows if all(other[name] == row[name] for name in names)), {})


def answers_over_seeds(answers: list[dict], others: Sequence[list[dict]], seeds: Sequence[int]) -> list[dict]:
    """The answers, each with what the other seeds came to: "seeds" (grades, and the spread of its difference), and a
    sentence on them. As they are where there are no others."""
    if not others:
        return answers
    return [_answer(list(same), seeds) for same in zip(answers, *others, strict=True)]


def _answer(same: list[dict], seeds: Sequence[int]) -> dict:
    """One question, answered with each seed."""
    grades = [one["grade"] for one in same]
    found = mean_and_sd([one["difference"] for one in same])
    shown = grades.count(SHOWN)
    says = f"With {shown} of {len(same)} training seeds ({', '.join(map(str, seeds))}) it is shown"
    if found["sd"] is not None:
        told = ", ".join("none" if value is None else f"{value:+.3f}" for value in found["values"])
        says += f": differences {told}, mean {found['mean']:+.3f}, standard deviation {found['sd']:.3f}"
    told = same[0]["says"] if set(grades) == {NOT_RUN} else f"{same[0]['says']} {says}."
    return same[0] | {"says": told, "seeds": {"seeds": list(seeds), "grades": grades, **found}}


def seed_rows(systems: list[dict], seeds: Sequence[int]) -> list[dict]:
    """A row for each figure of each trained rung and seed, for CSV; none where there is one seed."""
    return [
        {"rung": row["rung"], "dataset": row["dataset"], "figure": figure.key, "seed": seed, "value": value}
        for row in systems
        for figure in FIGURES
        if f"{figure.key}_seeds" in row
        for seed, value in zip(seeds, row[f"{figure.key}_seeds"]["values"], strict=True)
    ]


# A matrix of datasets ---------------------------------------------------------------------------------


def trained_on(
    trained: Sequence[str],
    variants: dict[str, Artefacts],
    systems: Sequence[dict],
    intervals: BootstrapSettings,
    store: Store,
) -> list[dict]:
    """What was trained on each of these datasets alone, where it was tested: a row for each training set and rung.

    {"trained_on", "rung", "system", "tested": {dataset: its row of metrics.json, and in "over" the verdict of each figure's
    paired difference to the LLM as it came}}. A training set without a rung that ran has the row {"trained_on", "not_run"}.
    Last come systems that read nothing, which are trained on nothing either; systems: the run's rows of metrics.json.
    """
    found: list[dict] = []
    for dataset in trained:
        made = variants.get(of_dataset(dataset)) or {}
        metrics = read_named(made, "metrics", "metrics.json", store) or {"systems": []}
        each = read_named(made, "metrics", "by_reply.json", store) or {"exchanges": [], "figures": {}}
        here = [row for row in metrics["systems"] if row["rung"] in TRAINED and row["dataset"] != ALL]
        if not here:
            found.append(
                {"trained_on": dataset, "not_run": "it has no train split here, or nothing was answered"}
            )
        for rung in dict.fromkeys(row["rung"] for row in here):
            rows = [row for row in here if row["rung"] == rung]
            tested = {
                row["dataset"]: row | {"over": _over_base(each, rung, row["dataset"], intervals)}
                for row in rows
            }
            found.append(
                {
                    "trained_on": dataset,
                    "rung": rung,
                    "system": rows[0]["system"],
                    "tested": tested,
                    "not_run": None,
                }
            )
    return found + (_untrained(systems) if found else [])


def _untrained(systems: Sequence[dict]) -> list[dict]:
    """The floors as rows of the matrix."""
    found = []
    for name in FLOORS:
        rows = [row for row in systems if row["rung"] == name and row["dataset"] != ALL]
        if rows:
            tested = {row["dataset"]: row | {"over": {}} for row in rows}
            found.append(
                {
                    "trained_on": NOTHING,
                    "rung": name,
                    "system": rows[0]["system"],
                    "tested": tested,
                    "not_run": None,
                }
            )
    return found


def _over_base(each: dict, rung: str, dataset: str, intervals: BootstrapSettings) -> dict[str, dict]:
    """Figure -> the verdict of rung less LLM as it came, over the dataset's exchanges that both answered."""
    mine, base = (each["figures"].get(name, {}) for name in (rung, BASE))
    found = {}
    for figure in (f for f in FIGURES if f.steps and f.key in mine and f.key in base):
        both = [
            (one - other, tuple(exchange[:3]))
            for exchange, one, other in zip(
                each["exchanges"], mine[figure.key], base[figure.key], strict=True
            )
            if exchange[0] == dataset and one is not None and other is not None
        ]
        found[figure.key] = verdict([gain for gain, _ in both], [of for _, of in both], intervals).as_dict()
    return found


def matrix_rows(rows: list[dict]) -> list[dict]:
    """A row for each cell and figure, for CSV."""
    return [
        {"trained_on": row["trained_on"], "rung": row["rung"], "tested_on": dataset, "figure": key,
         "value": cell[key], "low": (cell.get(f"{key}_ci") or (None, None))[0],
         "high": (cell.get(f"{key}_ci") or (None, None))[1], "n": cell["n"], "dialogues": cell["dialogues"],
         "over_llm": over.get("mean"), "over_low": over.get("low"), "over_high": over.get("high"),
         "grade": over.get("grade")}
        for row in rows
        for dataset, cell in (row.get("tested") or {}).items()
        for key, over in ((key, cell["over"].get(key, {})) for key in (f.key for f in STEPS) if cell.get(key) is not None)
    ]  # fmt: skip
