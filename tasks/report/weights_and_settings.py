"""What a run was made with: weights beside the paper's, every setting beside its default, and what budgets it used.

Knows nothing of HTML; reads no artefact.
"""

from __future__ import annotations

from pydantic import BaseModel

from model.zoo.resolve import commit_of
from tasks.engine.declaration import Weights
from tasks.report.figures import MAIN
from tasks.settings import Settings, flat, weight_names
from tasks.stages.replies.rungs import RUNGS

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
    "epo_test.exchanges": "test exchanges that are sampled for what EPO moved",
    "replies.exchanges": "test exchanges each rung answers",
    "reconstruction.conversations": "test conversations restored",
    "ladder.exchanges": "test exchanges of each arm of the memory ladder",
    "long_history.exchanges": "test exchanges of table 3",
}
"""Setting -> what it limits."""


def weight_rows(weights: dict[str, Weights]) -> list[dict]:
    paper = _paper_weights()
    return [{"role": role, **named(w), "paper": paper.get(role, "")} for role, w in weights.items()]


def named(weights: Weights) -> dict[str, str]:
    """{"name", "identity", "commit"}: of the hub, as it lies in this machine's cache; "" of others."""
    commit = commit_of(weights.name) if weights.identity.startswith("hub:") else None
    return {"name": weights.name, "identity": weights.identity, "commit": commit or ""}


def _paper_weights() -> dict[str, str]:
    return {role: name for role, name in weight_names(Settings()).items() if role in PAPER_ROLES}


def same_scorer(weights: dict[str, Weights]) -> list[str]:
    """The figures that the paper's scorer measured here too, or none did: only these share an axis with the paper's."""
    paper = _paper_weights()
    return [
        figure.key
        for figure in MAIN
        if not figure.scorer
        or (figure.scorer in weights and weights[figure.scorer].name == paper.get(figure.scorer))
    ]


def other_models(weights: dict[str, Weights]) -> list[dict]:
    """Roles whose weights are not the paper's: {"role", "name", "paper"}; name "" where it starts from none."""
    found = []
    for role, paper in _paper_weights().items():
        name = weights[role].name if role in weights else ""
        if name != paper:
            found.append({"role": role, "name": name, "paper": paper})
    return found


def setting_rows(settings: Settings) -> list[dict]:
    """Every setting with the default beside it; `differs` marks those a profile or `--set` changed."""
    defaults, descriptions = flat(Settings()), _described(settings)
    return [
        {
            "name": name,
            "value": value,
            "default": defaults.get(name),  # of a group that is none by default: none
            "differs": value != defaults.get(name),
            "description": descriptions[name],
        }
        for name, value in flat(settings).items()
    ]


def budget_rows(
    settings: Settings,
    counts: dict,
    training: list[dict],
    systems: list[dict],
    measured: dict[str, int | None],
) -> list[dict]:
    """Each budget, its limit (None: lifted) and what the run used of it (None: not run).

    measured: of the budgets of single measurements, how many each was of.
    """
    values = flat(settings)
    return [
        {
            "name": name,
            "limits": text,
            "limit": values[name],
            "used": _used(name, counts, training, systems, measured),
        }
        for name, text in BUDGETS.items()
    ]


def _used(
    name: str,
    counts: dict,
    training: list[dict],
    systems: list[dict],
    measured: dict[str, int | None],
) -> list[int]:
    """What the run used of a budget; more than one number where several stages share it."""
    if name == "data.dialogues":
        dialogues: dict[str, int] = {}
        for row in counts["splits"]:
            dialogues[row["dataset"]] = dialogues.get(row["dataset"], 0) + row["dialogues"]
        return list(dialogues.values())
    if name == "candidates.budget":
        return [row["rows"] for row in counts["stages"] if row["stage"] == "candidates" and row["rows"]]
    if name in measured:
        return [used] if (used := measured[name]) is not None else []
    if name == "replies.exchanges":
        ladder = {rung.name for rung in RUNGS}  # a floor may answer fewer
        return sorted({row["n"] for row in systems if row["dataset"] == "all" and row["rung"] in ladder})
    stage = name.removesuffix(".max_tokens").removesuffix(".training")
    reports = [part["report"] for part in training if part["stage"].startswith(stage) and part["report"]]
    return [report["history"]["tokens"] for report in reports if "tokens" in report.get("history", {})]


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
