"""A run's artefacts -> one dict of facts that the page and the JSON are made from.

Knows nothing of HTML or plots; reads artefacts only, so the same artefacts give the same facts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from storage.store import Ref, Store
from tasks.engine.declaration import Weights
from tasks.report.answer import answer
from tasks.report.counts import REJECTING, Artefacts, collect_counts, read_named
from tasks.report.figures import as_dicts
from tasks.report.rungs import (
    NOT_ASKED,
    generalisation_rows,
    ladder_rows,
    memory_ladder_facts,
    table_3_rows,
)
from tasks.report.samples import candidate_examples, prompt_tokens, reply_examples
from tasks.report.table_1 import by_dataset, finetuned, judgements, other_systems, without_others
from tasks.report.variants import (
    answers_over_seeds,
    judged_with_seeds,
    seed_artefacts,
    seed_rows,
    trained_on,
    with_seeds,
)
from tasks.report.viewer import viewer_samples
from tasks.report.weights_and_settings import (
    budget_rows,
    named,
    other_models,
    same_scorer,
    setting_rows,
    weight_rows,
)
from tasks.settings import Settings, flat
from tasks.stages.verdicts import findings, judged, scorers_line

MEASURE_EPO = ("night", "paper")
"""Profiles whose budgets are meant to decide what EPO taught."""

COVERED = (
    *REJECTING,
    "scores.calibration",
    "pairs.quality",
    "extractor.test",
    "compressor.test",
    "epo.test",
    "ladder",
    "long-history",
    "metrics",
    "judge",
    "systems.multimodal",
    "study",
)
"""Stages that a section or a table of the page is about, beside those that train and the rungs' replies."""


def collect(
    profile: str,
    settings: Settings,
    artefacts: Artefacts,
    weights: dict[str, Weights],
    stages: list[dict],
    licences: dict[str, dict[str, str]],
    store: Store,
    variants: dict[str, Artefacts] | None = None,
    seeds: Sequence[int] = (0,),
) -> dict:
    """All facts of the report. A stage that did not run (None) leaves its part None or empty, with a reason.

    stages, licences, variants: as tasks/stages/report/stage.py declares them. seeds: of the run's trainings.
    """
    variants = variants or {}
    why = {stage["name"]: stage["reason"] for stage in stages}
    counts = collect_counts(artefacts, store)
    again = seed_artefacts(seeds, variants)
    others = [artefacts | made for made in again.values()]
    metrics = with_seeds(
        _metrics(artefacts, store), [_metrics(made, store) for made in others], finetuned(settings)
    )
    systems = metrics.get("systems", [])
    pairs = read_named(artefacts, "pairs", "pairs.json", store)
    training = [part for s in stages if s["trains"] for part in _training(s, artefacts, store, settings)]
    tokens = prompt_tokens(artefacts, store)
    others_asked = other_systems(settings, artefacts, why.get("systems"), store)
    shown = _shown(metrics, artefacts, settings, why, counts["titles"], store)
    long_history = read_named(artefacts, "long-history", "long_history.json", store)
    measured = {
        "recognition.clips": (shown["recognition"] or {}).get("clips"),
        "reconstruction.conversations": (shown["reconstruction"] or {}).get("conversations"),
        "ladder.exchanges": (shown["memory_ladder"] or {}).get("exchanges"),
        "long_history.exchanges": (long_history or {}).get("exchanges"),
    }
    facts = {
        "title": f"Empamba report ({profile} profile)",
        "profile": profile,
        "synthetic": counts["synthetic"],
        "media": any(row["with_media"] for row in counts["splits"]),
        "other_models": other_models(weights),
        "random_models": sorted(role for role, w in weights.items() if w.identity.startswith("random:")),
        "dev_stands_in": sorted(
            {row["dataset"] for row in systems if row["split"] == "dev" and row["dataset"] != "all"}
        ),
        "dev_alone": sorted(
            row["dataset"] for row in counts["splits"] if row["split"] == "dev" and row["dialogues"] == 1
        ),
        "systems": systems,
        **shown,
        "over_systems": metrics.get("over_systems") or [],
        "other_systems": others_asked,
        "judge": judged_with_seeds(
            judgements(artefacts, store), [judgements(m, store) for m in again.values()]
        ),
        "judge_not_run": why.get("judge") if settings.judge else None,
        "study": read_named(artefacts, "study", "study.json", store),
        "answered": metrics.get("answered"),
        "bertscore": metrics.get("bertscore"),
        "by_reply": _by_reply(artefacts),
        "reconstruction_not_run": why.get("compressor.test"),
        "recognition_not_run": why.get("extractor.test") or why.get("extractor"),
        "epo_test_not_run": _no_epo_test(profile, settings, why.get("epo.test")),
        "scorers": metrics.get("scorers"),
        "by_dataset": by_dataset(systems, others_asked),
        "generalisation": generalisation_rows(systems, counts["splits"]),
        "trained_on": trained_on(
            settings.generalisation.train, variants, systems, settings.metrics.intervals, store
        ),
        "run_seeds": list(seeds),
        "seed_rows": seed_rows(systems, [*seeds[:1], *again]),
        "table_3": table_3_rows(tokens),
        "long_history": long_history,
        "long_history_not_run": why.get("long-history"),
        "training": training,
        "pairs": _pairs(pairs, read_named(artefacts, "scores.calibration", "calibration.json", store)),
        "judged_pairs": read_named(artefacts, "pairs.judged", "judged.json", store),
        "joined_pairs": read_named(artefacts, "pairs.joined", "joined.json", store),
        "examples_compared": _examples_compared(artefacts, store),
        "quality": read_named(artefacts, "pairs.quality", "quality.json", store),
        "candidate_examples": candidate_examples(artefacts, store),
        "reply_examples": reply_examples(artefacts, store),
        "viewer": viewer_samples(artefacts, store),
        "counts": counts,
        "weights": weight_rows(weights),
        "licences": licences,
        "same_scorer": same_scorer(weights),
        "others": _others(stages, artefacts, store),
        "settings": setting_rows(settings),
        "budgets": budget_rows(settings, counts, training, systems, measured),
        "seeds": {name: value for name, value in flat(settings).items() if name.split(".")[-1] == "seed"},
    }
    with_others = [
        answer(facts | _shown(_metrics(made, store), made, settings, why, counts["titles"], store))
        for made in others
    ]
    return {**facts, "answer": answers_over_seeds(answer(facts), with_others, [*seeds[:1], *again])}


def _metrics(artefacts: Artefacts, store: Store) -> dict:
    return read_named(artefacts, "metrics", "metrics.json", store) or {}


def _shown(
    metrics: dict,
    artefacts: Artefacts,
    settings: Settings,
    why: dict[str, str | None],
    titles: dict[str, str],
    store: Store,
) -> dict:
    """The facts that the answers are made from, and that differ between training seeds."""
    return {
        "steps": metrics.get("steps") or [],
        "over_floors": metrics.get("over_floors") or [],
        "controls": metrics.get("controls") or {},
        "scorers_line": scorers_line(metrics.get("scorers")),
        "ladder": ladder_rows(
            without_others(metrics.get("systems", []), settings),
            metrics.get("identical_to_previous") or {},
            artefacts,
            why,
        ),
        "memory_ladder": memory_ladder_facts(read_named(artefacts, "ladder", "ladder.json", store), titles),
        "epo_test": read_named(artefacts, "epo.test", "epo_test.json", store),
        "memory_content": _finding("memory", artefacts.get("compressor.finetune"), settings, store),
        "reconstruction": read_named(artefacts, "compressor.test", "reconstruction.json", store),
        "recognition": read_named(artefacts, "extractor.test", "recognition.json", store),
    }


def _no_epo_test(profile: str, settings: Settings, reason: str | None) -> str:
    """Why epo.test did not run; of a profile that leaves it out, which ones do not."""
    if settings.epo_test.exchanges:
        return reason or NOT_ASKED
    return (
        f"the {profile} profile does not measure it (epo_test.exchanges = 0); {' and '.join(MEASURE_EPO)} do"
    )


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
        "over_systems": facts["over_systems"],
        "other_systems": facts["other_systems"],
        "judge": facts["judge"],
        "study": facts["study"],
        "answered": facts["answered"],
        "bertscore": facts["bertscore"],
        "by_reply": facts["by_reply"],
        "reconstruction": facts["reconstruction"],
        "table_3": facts["table_3"],
        "long_history": facts["long_history"],
        "generalisation": facts["generalisation"],
        "trained_on": facts["trained_on"],
        "run_seeds": facts["run_seeds"],
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
        "judged_pairs": facts["judged_pairs"],
        "joined_pairs": facts["joined_pairs"],
        "examples_compared": facts["examples_compared"],
        "quality": facts["quality"],
        "controls": facts["controls"],
        "epo_test": facts["epo_test"],
        "counts": facts["counts"],
        "other_stages": {part["stage"]: part for part in facts["others"]},
        "licences": facts["licences"],
        "weights": {role: named(w) for role, w in weights.items()},
        "settings": settings.model_dump(mode="json"),
    }


def _by_reply(artefacts: Artefacts) -> dict | None:
    """The artefact that holds the rungs' figures reply by reply: another run's report finds it by its digest."""
    ref = next((r for r in artefacts.get("metrics") or [] if r.name == "by_reply.json"), None)
    return None if ref is None else {"name": ref.name, "digest": ref.digest, "size": ref.size}


# Training ---------------------------------------------------------------------------------------------


def _training(stage: dict, artefacts: Artefacts, store: Store, settings: Settings) -> list[dict]:
    """A part for each of its items: one, but for a stage that trains several systems."""
    refs = artefacts.get(stage["name"])
    part = {
        "stage": stage["name"],
        "title": stage["title"] or stage["name"],
        "report": None,
        "reason": None,
        "judged": None,
    }
    if not refs:
        return [{**part, "reason": stage["reason"] or NOT_ASKED}]
    trees, parts = [ref for ref in refs if ref.tree], []
    for tree in trees:
        member = next(m for m in store.members(tree) if m.name == "report.json")
        report = json.loads(store.read(member))
        one = {**part, "report": report, "judged": judged(report, settings.metrics.intervals)}
        if len(trees) > 1:
            one |= {"stage": f"{part['stage']}.{tree.name}", "title": f"{part['title']}: {tree.name}"}
        parts.append(one)
    return parts


def _finding(about: str, refs: list[Ref] | None, settings: Settings, store: Store) -> dict | None:
    """The verdict on one question of a training's report; None where it was not asked there."""
    for tree in (ref for ref in refs or [] if ref.tree):
        member = next(m for m in store.members(tree) if m.name == "report.json")
        found = findings(json.loads(store.read(member)), settings.metrics.intervals)
        return next((finding.verdict.as_dict() for finding in found if finding.about == about), None)
    return None


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
        if stage["trains"] or name in COVERED:
            continue
        refs = artefacts.get(name)
        if refs is None and name not in artefacts:
            continue  # shown together with its kind, as the replies of the rungs
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
