"""A run's artefacts -> one dict of facts that the page and the JSON are made from.

Knows nothing of HTML or plots; reads artefacts only, so the same artefacts give the same facts.
"""

from __future__ import annotations

import json

from pydantic import BaseModel

from storage.store import Store
from tasks.engine.declaration import Weights
from tasks.report.answer import answer
from tasks.report.counts import REJECTING, Artefacts, collect_counts, read_named
from tasks.report.figures import MAIN, as_dicts
from tasks.report.paper_tables import METRICS, TABLE_1, TABLE_1_RUNGS, TABLE_2, TABLE_3, TABLE_3_RUNGS
from tasks.report.samples import candidate_examples, prompt_tokens, reply_examples
from tasks.settings import Settings, flat, weight_names
from tasks.stages.ladder.arms import ARMS
from tasks.stages.ladder.said import ladder_sentences
from tasks.stages.replies.rungs import FULL_TEXT, LADDER, RUNGS
from tasks.stages.verdicts import judged, scorers_line

NOT_ASKED = "not asked for"
TOLD = (
    *REJECTING,
    "scores.calibration",
    "pairs.quality",
    "extractor.test",
    "compressor.test",
    "ladder",
    "metrics",
)
"""Stages that a section or a table of the page is about, beside those that train and the rungs' replies."""

IDENTICAL_SHARE = 0.95
"""From this share of equal replies on, a rung is flagged as no different from the one before."""

PAPER_ROLES = ("LLM", "audio encoder", "video encoder", "compressor", "emotion scorer")
"""Roles whose weights the paper names (sections 4.2 and 4.4); it names none for BERTScore."""

BUDGETS = {
    "data.dialogues": "dialogues read of each dataset",
    "candidates.budget": "candidates written",
    "extractor.training.max_tokens": "training tokens, extractor",
    "compressor.pretrain.max_tokens": "training tokens, compressor pretraining",
    "compressor.finetune.max_tokens": "training tokens, compressor finetuning",
    "dialogue.training.max_tokens": "training tokens, each dialogue LoRA",
    "epo.training.max_tokens": "training tokens, EPO",
    "recognition.clips": "test clips of figure 6",
    "replies.exchanges": "test exchanges each rung answers",
    "reconstruction.conversations": "test conversations restored",
    "ladder.exchanges": "test exchanges of each arm of the memory ladder",
}
"""Setting -> what it limits."""


def collect(
    profile: str,
    settings: Settings,
    artefacts: Artefacts,
    weights: dict[str, Weights],
    stages: list[dict],
    licences: dict[str, dict[str, str]],
    store: Store,
) -> dict:
    """All facts of the report. A stage that did not run (None) leaves its part None or empty, with a reason.

    stages, licences: as tasks/stages/report/stage.py declares them.
    """
    why = {stage["name"]: stage["reason"] for stage in stages}
    counts = collect_counts(artefacts, store)
    metrics = read_named(artefacts, "metrics", "metrics.json", store) or {}
    systems = metrics.get("systems", [])
    pairs = read_named(artefacts, "pairs", "pairs.json", store)
    training = [_training(stage, artefacts, store, settings) for stage in stages if stage["trains"]]
    tokens = prompt_tokens(artefacts, store)
    recognition = read_named(artefacts, "extractor.test", "recognition.json", store)
    memory_ladder = _memory_ladder(read_named(artefacts, "ladder", "ladder.json", store))
    facts = {
        "title": f"Empamba report ({profile} profile)",
        "profile": profile,
        "synthetic": counts["synthetic"],
        "media": any(row["with_media"] for row in counts["splits"]),
        "other_models": _other_models(weights),
        "random_models": sorted(role for role, w in weights.items() if w.identity.startswith("random:")),
        "dev_stands_in": sorted(
            {row["dataset"] for row in systems if row["split"] == "dev" and row["dataset"] != "all"}
        ),
        "dev_alone": sorted(
            row["dataset"] for row in counts["splits"] if row["split"] == "dev" and row["dialogues"] == 1
        ),
        "systems": systems,
        "steps": metrics.get("steps") or [],
        "over_floors": metrics.get("over_floors") or [],
        "answered": metrics.get("answered"),
        "bertscore": metrics.get("bertscore"),
        "by_reply": _by_reply(artefacts),
        "reconstruction": read_named(artefacts, "compressor.test", "reconstruction.json", store),
        "reconstruction_not_run": why.get("compressor.test"),
        "scorers": metrics.get("scorers"),
        "scorers_line": scorers_line(metrics.get("scorers")),
        "recognition": recognition,
        "ladder": _ladder(systems, metrics.get("identical_to_previous") or {}, artefacts, why),
        "memory_ladder": memory_ladder,
        "by_dataset": _by_dataset(systems),
        "table_3": _table_3(tokens),
        "training": training,
        "pairs": _pairs(pairs, read_named(artefacts, "scores.calibration", "calibration.json", store)),
        "examples_compared": _examples_compared(artefacts, store),
        "quality": read_named(artefacts, "pairs.quality", "quality.json", store),
        "controls": metrics.get("controls") or {},
        "candidate_examples": candidate_examples(artefacts, store),
        "reply_examples": reply_examples(artefacts, store),
        "counts": counts,
        "weights": _weights(weights),
        "licences": licences,
        "same_scorer": _same_scorer(weights),
        "others": _others(stages, artefacts, store),
        "settings": _settings(settings),
        "budgets": _budgets(settings, counts, training, systems, recognition, memory_ladder),
        "seeds": {name: value for name, value in flat(settings).items() if name.split(".")[-1] == "seed"},
    }
    return {**facts, "answer": answer(facts)}


def as_json(facts: dict, settings: Settings, weights: dict[str, Weights]) -> dict:
    """The report for programs: metrics as they stand, training with its verdict, without losses by step and row."""
    return {
        "title": facts["title"],
        "profile": facts["profile"],
        "synthetic": bool(facts["synthetic"]),
        "synthetic_datasets": facts["synthetic"],
        "dev_stands_in": facts["dev_stands_in"],
        "answer": facts["answer"],
        "figures": as_dicts(),
        "systems": facts["systems"],
        "steps": facts["steps"],
        "over_floors": facts["over_floors"],
        "answered": facts["answered"],
        "bertscore": facts["bertscore"],
        "by_reply": facts["by_reply"],
        "reconstruction": facts["reconstruction"],
        "table_3": facts["table_3"],
        "scorers": facts["scorers"],
        "recognition": facts["recognition"],
        "ladder": facts["ladder"],
        "memory_ladder": facts["memory_ladder"],
        "training": {
            part["stage"]: {"not_run": part["reason"]}
            if part["report"] is None
            else {**_brief(part["report"]), "verdict": part["judged"]}
            for part in facts["training"]
        },
        "pairs": facts["pairs"],
        "examples_compared": facts["examples_compared"],
        "quality": facts["quality"],
        "controls": facts["controls"],
        "counts": facts["counts"],
        "other_stages": {part["stage"]: part for part in facts["others"]},
        "licences": facts["licences"],
        "weights": {role: w.model_dump() for role, w in weights.items()},
        "settings": settings.model_dump(mode="json"),
    }


def _described(settings: BaseModel, prefix: str = "") -> dict[str, str]:
    """Dotted name -> description, as `flat`."""
    found: dict[str, str] = {}
    for name, value in settings:
        field = type(settings).model_fields[name]
        if isinstance(value, BaseModel):
            found |= _described(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field.description or ""
    return found


# Metrics ----------------------------------------------------------------------------------------------


def _ladder(systems: list[dict], identical: dict, artefacts: Artefacts, why: dict) -> list[dict]:
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
            "paper": _named(TABLE_2.get(rung.name)),
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
            }
            | {"not_run": None, "continues": None}
        )
    for row in rows:
        same = identical.get(row["rung"])
        row["identical"] = same if same and same["share"] is not None else None
        row["flagged"] = bool(row["identical"] and row["identical"]["share"] >= IDENTICAL_SHARE)
    return rows


def _by_reply(artefacts: Artefacts) -> dict | None:
    """The artefact that holds the rungs' figures reply by reply: another run's report finds it by its digest."""
    ref = next((r for r in artefacts.get("metrics") or [] if r.name == "by_reply.json"), None)
    return None if ref is None else {"name": ref.name, "digest": ref.digest, "size": ref.size}


def _memory_ladder(facts: dict | None) -> dict | None:
    """ladder.json, the arms in their own order, with its sentences."""
    if facts is None:
        return None
    ordered = {**facts, "arms": {name: facts["arms"][name] for name in ARMS if name in facts["arms"]}}
    return {**ordered, "sentences": ladder_sentences(ordered)}


def _named(figures: tuple | None) -> dict | None:
    return None if figures is None else dict(zip(METRICS, figures, strict=True))


def _by_dataset(systems: list[dict]) -> list[dict]:
    """For each dataset: every rung's figures beside the system of table 1 it stands for."""
    found = []
    for dataset in dict.fromkeys(row["dataset"] for row in systems if row["dataset"] != "all"):
        rows = [
            {**row, "paper_system": TABLE_1_RUNGS.get(row["rung"]), "paper": _paper_figures(row, dataset)}
            for row in systems
            if row["dataset"] == dataset
        ]
        others = {
            name: _named(figures[dataset])
            for name, figures in TABLE_1.items()
            if dataset in figures and name not in TABLE_1_RUNGS.values()
        }
        found.append({"dataset": dataset, "split": rows[0]["split"], "rows": rows, "others": others})
    return found


def _paper_figures(row: dict, dataset: str) -> dict | None:
    system = TABLE_1_RUNGS.get(row["rung"])
    return None if system is None else _named(TABLE_1[system].get(dataset))


def _table_3(tokens: dict[str, float]) -> list[dict]:
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


# Training ---------------------------------------------------------------------------------------------


def _training(stage: dict, artefacts: Artefacts, store: Store, settings: Settings) -> dict:
    refs = artefacts.get(stage["name"])
    part = {
        "stage": stage["name"],
        "title": stage["title"] or stage["name"],
        "report": None,
        "reason": None,
        "judged": None,
    }
    if not refs:
        return {**part, "reason": stage["reason"] or NOT_ASKED}
    (tree,) = (ref for ref in refs if ref.tree)
    member = next(m for m in store.members(tree) if m.name == "report.json")
    report = json.loads(store.read(member))
    return {**part, "report": report, "judged": judged(report, settings.metrics.intervals)}


def _brief(report: dict) -> dict:
    """A training report with the number of steps in place of each step's loss."""
    history = report.get("history", {})
    brief = {name: value for name, value in history.items() if name != "train"}
    rest = {name: value for name, value in report.items() if name != "compared"}
    return {**rest, "history": {**brief, "steps": len(history.get("train", []))}}


# Stages that no section is about ----------------------------------------------------------------------


def _others(stages: list[dict], artefacts: Artefacts, store: Store) -> list[dict]:
    """What each of them left: artefacts counted by table, and its JSON files as they are."""
    found = []
    for stage in stages:
        name = stage["name"]
        if stage["trains"] or name in TOLD:
            continue
        refs = artefacts.get(name)
        if refs is None and name not in artefacts:
            continue  # told together with its kind, as the replies of the rungs
        tables: dict[str, dict] = {}
        for ref in refs or []:
            kind = tables.setdefault(ref.name.split("/")[0], {"files": 0, "rows": 0, "rejects": 0})
            kind["files"] += 1
            kind["rows"] += ref.rows
            kind["rejects"] += ref.rejects
        files = {
            ref.name: json.loads(store.read(ref))
            for ref in sorted(refs or [], key=lambda ref: ref.name)
            if ref.name.endswith(".json")
        }
        found.append(
            {
                "stage": name,
                "title": stage["title"],
                "reason": (stage["reason"] or NOT_ASKED) if refs is None else None,
                "tables": [{"name": kind, **counts} for kind, counts in sorted(tables.items())],
                "figures": {
                    f: facts if isinstance(facts, dict) else {"value": facts} for f, facts in files.items()
                },
            }
        )
    return found


# Pairs ------------------------------------------------------------------------------------------------


def _pairs(summary: dict | None, calibration: dict | None) -> dict | None:
    if summary is None:
        return None
    shares = {
        "usable_share": _share(summary["usable"], summary["candidates"]),
        "kept_share": _share(summary["pairs"], summary["exchanges"]),
        "kept_share_at_paper_threshold": _share(summary["kept_at_paper_threshold"], summary["exchanges"]),
    }
    return {**summary, **shares, "calibration": calibration}


def _examples_compared(artefacts: Artefacts, store: Store) -> dict | None:
    """Usable candidates of the same exchanges with and without the worked examples; None where not asked for."""
    found = {name: {"candidates": 0, "usable": 0} for name in ("with", "without")}
    shards = [ref for ref in artefacts.get("candidates") or [] if ref.name.startswith("plain/")]
    for facts in (json.loads(store.read(ref)) for ref in shards):
        for name, counts in found.items():
            for what in counts:
                counts[what] += facts[name][what]
    if not shards:
        return None
    return {name: {**c, "share": _share(c["usable"], c["candidates"])} for name, c in found.items()}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# Settings and weights ---------------------------------------------------------------------------------


def _weights(weights: dict[str, Weights]) -> list[dict]:
    paper = _paper_weights()
    return [
        {"role": role, "name": w.name, "identity": w.identity, "paper": paper.get(role, "")}
        for role, w in weights.items()
    ]


def _paper_weights() -> dict[str, str]:
    return {role: name for role, name in weight_names(Settings()).items() if role in PAPER_ROLES}


def _same_scorer(weights: dict[str, Weights]) -> list[str]:
    """The figures that the paper's scorer measured here too, or none did: only these share an axis with the paper's."""
    paper = _paper_weights()
    return [
        figure.key
        for figure in MAIN
        if not figure.scorer
        or (figure.scorer in weights and weights[figure.scorer].name == paper.get(figure.scorer))
    ]


def _other_models(weights: dict[str, Weights]) -> list[dict]:
    """Roles whose weights are not the paper's: {"role", "name", "paper"}; name "" where it starts from none."""
    found = []
    for role, paper in _paper_weights().items():
        name = weights[role].name if role in weights else ""
        if name != paper:
            found.append({"role": role, "name": name, "paper": paper})
    return found


def _settings(settings: Settings) -> list[dict]:
    """Every setting with the default beside it; `differs` marks those a profile or `--set` changed."""
    defaults, descriptions = flat(Settings()), _described(settings)
    return [
        {
            "name": name,
            "value": value,
            "default": defaults[name],
            "differs": value != defaults[name],
            "description": descriptions[name],
        }
        for name, value in flat(settings).items()
    ]


def _budgets(
    settings: Settings,
    counts: dict,
    training: list[dict],
    systems: list[dict],
    recognition: dict | None,
    memory_ladder: dict | None,
) -> list[dict]:
    """Each budget, its limit (None: lifted) and what the run used of it (None: not run)."""
    values = flat(settings)
    return [
        {
            "name": name,
            "limits": text,
            "limit": values[name],
            "used": _used(name, counts, training, systems, recognition, memory_ladder),
        }
        for name, text in BUDGETS.items()
    ]


def _used(
    name: str,
    counts: dict,
    training: list[dict],
    systems: list[dict],
    recognition: dict | None,
    memory_ladder: dict | None,
) -> list[int]:
    """What the run used of a budget; more than one number where several stages share it."""
    if name == "data.dialogues":
        dialogues: dict[str, int] = {}
        for row in counts["splits"]:
            dialogues[row["dataset"]] = dialogues.get(row["dataset"], 0) + row["dialogues"]
        return list(dialogues.values())
    if name == "candidates.budget":
        return [row["rows"] for row in counts["stages"] if row["stage"] == "candidates" and row["rows"]]
    if name == "recognition.clips":
        return [recognition["clips"]] if recognition else []
    if name == "ladder.exchanges":
        return [memory_ladder["exchanges"]] if memory_ladder else []
    if name == "replies.exchanges":
        ladder = {rung.name for rung in RUNGS}  # a floor may answer fewer
        return sorted({row["n"] for row in systems if row["dataset"] == "all" and row["rung"] in ladder})
    stage = name.removesuffix(".max_tokens").removesuffix(".training")
    reports = [part["report"] for part in training if part["stage"].startswith(stage) and part["report"]]
    return [report["history"]["tokens"] for report in reports if "tokens" in report.get("history", {})]
