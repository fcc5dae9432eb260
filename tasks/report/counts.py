"""Counts of rows and rejects: by stage, by dataset and split, by reason; and the datasets' cards.

Knows nothing of metrics, training or HTML.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

from storage.shards import SCHEMAS, read_table
from storage.store import Ref, Store
from tasks.stages.pairs.stage import CONTROL_PAIRS, PEOPLES
from tasks.stages.utterances.cards import card_tables, exchange_counts, verdict

Artefacts = dict[str, list[Ref] | None]

TABLES = {
    "utterances": "utterances",
    "utterances.exchanges": "exchanges",
    "features": "features",
    "candidates": "candidates",
    "scores": "scores",
    "pairs": "pairs",
}
"""Stage -> the table it puts out, in the order of the pipeline."""

REJECTING = (*TABLES, *(stage.name for stage in (*CONTROL_PAIRS, *PEOPLES)), "systems")
"""The stages that turn rows away."""

SYNTHETIC = "synthetic faces and voices"
"""What a dataset's card says where media were made by the procedural actor."""


def collect_counts(artefacts: Artefacts, store: Store) -> dict:
    """{"stages", "splits", "rejects": rows of counts, "without_media": utterances, "titles": {dataset: name for
    people}, "notes": {dataset: lines}, "cards": {dataset: tables and a verdict}, "synthetic": datasets}."""
    cards = read_cards(artefacts, store)
    cut = exchange_counts(artefacts.get("utterances.exchanges") or [], store)
    splits = _split_counts(artefacts, cards, store)
    return {
        "stages": [_stage_counts(stage, table, artefacts) for stage, table in TABLES.items()],
        "splits": splits,
        "without_media": sum(row["utterances"] - row["with_media"] for row in splits),
        "rejects": _reject_reasons(artefacts, store),
        "cards": {
            dataset: {
                "verdict": verdict(card),
                "tables": [asdict(table) for table in card_tables(card, cut.get(dataset, {}))],
            }
            for dataset, card in cards.items()
        },
        "titles": {dataset: card.get("title", dataset) for dataset, card in cards.items()},
        "notes": {dataset: card.get("notes", []) for dataset, card in cards.items()},
        "synthetic": [dataset for dataset, card in cards.items() if _is_synthetic(card)],
    }


def read_cards(artefacts: Artefacts, store: Store) -> dict[str, dict]:
    """Dataset -> its card."""
    refs = [r for r in artefacts.get("utterances") or [] if r.name.startswith("card/")]
    return {r.name.split("/")[1]: json.loads(store.read(r)) for r in sorted(refs, key=lambda r: r.name)}


def read_named(artefacts: Artefacts, stage: str, name: str, store: Store) -> dict | None:
    """A stage's JSON artefact; None where the stage did not run or has none of that name."""
    ref = next((r for r in artefacts.get(stage) or [] if r.name == name), None)
    return None if ref is None else json.loads(store.read(ref))


def tables_of(artefacts: Artefacts, stage: str) -> list[Ref]:
    """A stage's shards in name order, without its rejects."""
    refs = [r for r in artefacts.get(stage) or [] if r.name.split("/")[0] in SCHEMAS]
    return sorted((r for r in refs if not r.name.startswith("rejects/")), key=lambda r: r.name)


def _is_synthetic(card: dict) -> bool:
    return bool(card.get("synthetic")) or any(SYNTHETIC in note for note in card.get("notes", []))


def _stage_counts(stage: str, table: str, artefacts: Artefacts) -> dict:
    refs = artefacts.get(stage)
    if refs is None:
        return {"stage": stage, "table": table, "rows": None, "rejects": None, "by": {}}
    by: Counter = Counter()
    for ref in tables_of(artefacts, stage):
        by["/".join(ref.name.split("/")[1:3])] += ref.rows
    rejects = sum(r.rejects for r in refs if r.name.startswith("rejects/"))
    return {
        "stage": stage,
        "table": table,
        "rows": sum(by.values()),
        "rejects": rejects,
        "by": dict(sorted(by.items())),
    }


def _split_counts(artefacts: Artefacts, cards: dict[str, dict], store: Store) -> list[dict]:
    """One row for each dataset and split: what each stage holds of it, its emotions, what fell out."""
    summary = read_named(artefacts, "utterances.exchanges", "exchanges.json", store) or {}
    selected: Counter = Counter()
    for shard, count in summary.get("selected", {}).items():
        selected["/".join(shard.split("/")[1:3])] += count
    by_stage = {s: _stage_counts(s, t, artefacts)["by"] for s, t in TABLES.items()}
    rows = []
    for dataset, card in cards.items():
        for split, facts in sorted(card["splits"].items(), key=lambda item: _split_order(item[0])):
            place = f"{dataset}/{split}"
            fallen = summary.get("fallen_out", {}).get(place, {})
            rows.append(
                {
                    "dataset": dataset,
                    "split": split,
                    "utterances": facts["utterances"],
                    "dialogues": facts["dialogues"],
                    "with_media": facts["with_media"],
                    "features": by_stage["features"].get(place, 0),
                    "exchanges": by_stage["utterances.exchanges"].get(place, 0),
                    "same_speaker": fallen.get("same_speaker", 0),
                    "gap": fallen.get("gap", 0),
                    "selected": selected[place],
                    "candidates": by_stage["candidates"].get(place, 0),
                    "pairs": by_stage["pairs"].get(place, 0),
                    "emotions": facts["emotions"],
                }
            )
    return rows


def _split_order(split: str) -> tuple[int, str]:
    known = ("train", "dev", "test")
    return (known.index(split) if split in known else len(known), split)


def _reject_reasons(artefacts: Artefacts, store: Store) -> list[dict]:
    """How many were turned away, by stage, dataset, split and reason, with one example of each."""
    counts: Counter = Counter()
    examples: dict[tuple, str] = {}
    for stage in REJECTING:
        refs = sorted(
            (r for r in artefacts.get(stage) or [] if r.name.startswith("rejects/")), key=lambda r: r.name
        )
        for row in (row for ref in refs for row in read_table(store.read(ref), "rejects")):
            if row["stage"].endswith(".defects"):
                continue  # a fault that cost no row: the dataset's card names it
            key = (stage, row["dataset"], row["split"], row["reason"])
            counts[key] += 1
            examples.setdefault(key, row["detail"])
    names = ("stage", "dataset", "split", "reason")
    return [
        {**dict(zip(names, key, strict=True)), "count": count, "example": examples[key]}
        for key, count in sorted(counts.items(), key=lambda item: (REJECTING.index(item[0][0]), item[0][1:]))
    ]
