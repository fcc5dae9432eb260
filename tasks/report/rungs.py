"""Tables 2 and 3: each rung's figures beside the paper's, and the arms of the memory ladder in their order.

Knows nothing of HTML; reads no artefact.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.report.counts import Artefacts
from tasks.report.paper_tables import TABLE_2, TABLE_3, TABLE_3_RUNGS, by_metric
from tasks.stages.ladder.arms import ARMS
from tasks.stages.ladder.sentences import ladder_sentences
from tasks.stages.replies.rungs import FULL_TEXT, LADDER

NOT_ASKED = "not asked for"
"""Why a rung or a stage is not in the report, where its own declaration gives no reason."""

FLOORS = ("floor-okay", "floor-people", "floor-next")
"""Beside what generalises: a constant, the reply of another dialogue, the next one of the same."""

IDENTICAL_SHARE = 0.95
"""From this share of equal replies on, a rung is flagged as no different from the one before."""


def ladder_rows(systems: list[dict], identical: dict, artefacts: Artefacts, why: dict) -> list[dict]:
    """The rungs of table 2, then any the paper lacks: the paper's figures, this run's over all data, notes."""
    whole = {row["rung"]: row for row in systems if row["dataset"] == "all"}
    rungs = [r for r in (*LADDER, FULL_TEXT) if r in LADDER or r.adapter in why or r.name in whole]
    rungs.sort(key=lambda rung: rung.name)  # 4f comes after 4
    known = [rung.name for rung in rungs]
    rows: list[dict] = []
    for rung in rungs:
        row: dict = {
            "rung": rung.name,
            "title": rung.title,
            "parts": [rung.ft, rung.mc, rung.av, rung.epo],
            "paper": by_metric(TABLE_2.get(rung.name)),
            "run": whole.get(rung.name),
            "not_run": None,
        }
        if row["run"] is None:
            row["not_run"] = why.get(rung.adapter) or NOT_ASKED
        row["continues"] = (
            "3" if rung.epo and row["run"] and artefacts.get("dialogue.audiovisual") is None else None
        )
        rows.append(row)
    for name in dict.fromkeys(row["rung"] for row in systems if row["rung"] not in known):
        extra = next(row for row in systems if row["rung"] == name)
        rows.append(
            {
                "rung": name,
                "title": extra["system"],
                "parts": [None] * 4,
                "paper": None,
                "run": whole.get(name),
                "not_run": None,
                "continues": None,
            }
        )
    for row in rows:
        same = identical.get(row["rung"])
        row["identical"] = same if same and same["share"] is not None else None
        row["flagged"] = bool(row["identical"] and row["identical"]["share"] >= IDENTICAL_SHARE)
    return rows


def memory_ladder_facts(facts: dict | None, titles: Mapping[str, str]) -> dict | None:
    """ladder.json, the arms in their own order, with its sentences. titles: dataset -> its name for people."""
    if facts is None:
        return None
    ordered = {**facts, "arms": {name: facts["arms"][name] for name in ARMS if name in facts["arms"]}}
    return {**ordered, "sentences": ladder_sentences(ordered, titles)}


def generalisation_rows(systems: list[dict], splits: list[dict]) -> list[dict]:
    """For each dataset that was answered: how much of it the run's trainings saw, and the LLM as it came, finetuned, and
    the ladder's last rung there, and systems that read nothing (FLOORS). A dataset without train exchanges is out of domain to every rung.

    splits: rows of counts. One run trains on all datasets that it reads, so this is one row of the matrix of datasets.
    """
    trained = {row["dataset"]: row["exchanges"] for row in splits if row["split"] == "train"}
    ran = [rung.name for rung in LADDER if any(row["rung"] == rung.name for row in systems)]
    shown = list(dict.fromkeys((*ran[:2], *ran[-1:], *FLOORS)))
    return [
        {
            "dataset": dataset,
            "train_exchanges": trained.get(dataset, 0),
            "rows": [
                row for name in shown for row in systems if (row["rung"], row["dataset"]) == (name, dataset)
            ],
        }
        for dataset in dict.fromkeys(row["dataset"] for row in systems if row["dataset"] != "all")
    ]


def table_3_rows(tokens: dict[str, float]) -> list[dict]:
    """Mean prompt tokens with and without memories; empty where the replies did not count them."""
    if not set(TABLE_3_RUNGS.values()) <= tokens.keys():
        return []
    return [
        {
            "system": name,
            "paper": figures["input"],
            "rung": TABLE_3_RUNGS[name],
            "run": tokens[TABLE_3_RUNGS[name]],
        }
        for name, figures in TABLE_3.items()
    ]
