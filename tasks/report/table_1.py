"""Table 1: rungs and other systems by dataset; what each system was asked, answered and cost, what absent ones need.

Knows nothing of HTML or of how they are asked.
"""

from __future__ import annotations

import json

from storage.store import Store
from tasks.report.counts import Artefacts
from tasks.report.paper_tables import TABLE_1, TABLE_1_RUNGS, by_metric
from tasks.settings import Settings
from tasks.stages.floors import BESIDE
from tasks.stages.replies.rungs import RUNGS
from tasks.stages.systems.settings import AnySystem, ChatbotSystem, Prices

ENDPOINT = "an endpoint that serves it, named in `systems`"
MULTIMODAL = "its weights, named in `systems` as a multimodal one with `finetune`"
NEEDED = {
    name: MULTIMODAL if name.endswith("†") else ENDPOINT
    for name in TABLE_1
    if name not in TABLE_1_RUNGS.values()
}
"""System of table 1 that is no rung -> what it needs to be run."""
CHATBOTS = "DialoGPT or BlenderBot class"
"""Not in the paper, which its critics say lacks it: a dialogue model of before chat LLMs."""


def titles_of(others: list[dict]) -> dict[str, str]:
    """Row of a rung, a system or what stands beside them -> what it is. others: rows of `other_systems`."""
    systems = {row["row"]: row["title"] for row in others if row["row"]}
    return BESIDE | {rung.name: rung.title for rung in RUNGS} | systems


def paper_systems(settings: Settings) -> dict[str, str]:
    """Row of a rung or a system -> the system of table 1 that it stands beside."""
    named = {s.row: s.paper for s in settings.systems if not isinstance(s, ChatbotSystem) and s.paper}
    return TABLE_1_RUNGS | named


def without_others(systems: list[dict], settings: Settings) -> list[dict]:
    """The rows of rungs and floors alone, for table 2."""
    others = {system.row for system in settings.systems}
    return [row for row in systems if row["rung"] not in others]


def by_dataset(systems: list[dict], others: list[dict]) -> list[dict]:
    """For each dataset: the figures of every rung and system beside the system of table 1 it stands for.

    others: rows of `other_systems`. "others": those of table 1 that nothing here stands for, with the paper's figures and what each needs.
    """
    named = {row["row"]: row["paper"] for row in others if row["row"] and row["paper"]}
    beside, found = TABLE_1_RUNGS | named, []
    for dataset in dict.fromkeys(row["dataset"] for row in systems if row["dataset"] != "all"):
        rows = [
            {
                **row,
                "paper_system": beside.get(row["rung"]),
                "paper": _paper_figures(beside.get(row["rung"]), dataset),
            }
            for row in systems
            if row["dataset"] == dataset
        ]
        absent_here = [
            {**row, "paper": _paper_figures(row["paper"], dataset)}
            for row in others
            if row["row"] is None and (row["paper"] is None or dataset in TABLE_1[row["paper"]])
        ]
        found.append({"dataset": dataset, "split": rows[0]["split"], "rows": rows, "others": absent_here})
    return found


def _paper_figures(system: str | None, dataset: str) -> dict | None:
    return None if system is None else by_metric(TABLE_1[system].get(dataset))


def other_systems(settings: Settings, artefacts: Artefacts, reason: str | None, store: Store) -> list[dict]:
    """A row for each system that was asked, with its counts, and for each of the paper's that was not, with "not_run".

    reason: why the stage was not run, if it was not.
    """
    refs = {ref.name: ref for ref in artefacts.get("systems") or []}
    rows = []
    for system in settings.systems:
        ref = refs.get(f"{system.name}.json")
        row = {"title": system.shown, "row": system.row, "paper": getattr(system, "paper", None)}
        if ref is None:
            rows.append({**row, "not_run": reason or "its replies are not there"})
        else:
            counts = json.loads(store.read(ref))
            rows.append({**row, "not_run": None, **counts, "cost": _cost(system, counts)})
    return rows + absent(settings)


def absent(settings: Settings) -> list[dict]:
    """The systems that nothing of the run stands for, each with what it needs."""
    there = set(paper_systems(settings).values())
    needed = {name: need for name, need in NEEDED.items() if name not in there}
    if not any(isinstance(system, ChatbotSystem) for system in settings.systems):
        needed[CHATBOTS] = "the folder of its weights, named in `systems`"
    return [
        {"title": name, "row": None, "paper": name if name in TABLE_1 else None, "not_run": f"needs {need}"}
        for name, need in needed.items()
    ]


def _cost(system: AnySystem, counts: dict) -> dict | None:
    """{"amount", "currency", "least"}; None without prices.

    least: more may have been paid for than was counted: an answer told no tokens, and of a call that was tried again, or
    given up, no earlier try's are known.
    """
    prices: Prices | None = getattr(system, "prices", None)
    if prices is None:
        return None
    least = any((counts["uncounted"], counts["retries"], sum(counts["failures"].values())))
    amount = (counts["prompt_tokens"] * prices.prompt + counts["reply_tokens"] * prices.reply) / 1e6
    return {"amount": amount, "currency": prices.currency, "least": least}


def finetuned(settings: Settings) -> list[str]:
    """The labels of the systems that were finetuned."""
    return [system.row for system in settings.systems if getattr(system, "finetune", None) is not None]


def judgements(artefacts: Artefacts, store: Store) -> list[dict]:
    """What the judge said of each pair of systems; none where no judge was asked."""
    refs = sorted(artefacts.get("judge") or [], key=lambda ref: ref.name)
    return [json.loads(store.read(ref)) for ref in refs]
