"""What the trainings of all stages have in common, around the loop: each names its rows, loss and held-out check.

A stage's trainer calls these in turn: `use_threads`; `looked_at` for the held-out rows; `run_training`; saves its weights; and
`write_results` leaves report.json and the card beside them. Knows nothing of what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel

from model.card import write_card
from model.checkpoints import Checkpoints
from model.json_files import write_json
from model.metrics.compared import compared_rows
from model.recompute import recomputed_layers
from model.settings import TrainingSettings
from model.training import WITHOUT_RULE, History, Loss, Objective, Progress, Rule, Trainable, TrainRows, fit


class Check(NamedTuple):
    """What one pass over the held-out rows finds.

    figures: of all rows together; "loss" chooses the checkpoint. rows: a figure of each row, its loss or its margin.
    """

    figures: dict[str, float]
    rows: list[float]


@dataclass(frozen=True)
class Outcome:
    """What a training came to: its history, and the held-out rows' figures before the first step and at the best."""

    history: History
    rows_before: list[float]
    rows_after: list[float]

    def report(self, groups: Sequence[Hashable], **figures: Sequence[float | None]) -> dict:
        """What every report holds, from which the verdict is drawn: held-out figures before and after, the rows' own.

        groups: the dialogue of each held-out row; figures: see `compared_rows`.
        """
        return {
            "heldout_before": self.history.first_check,
            "heldout_after": self.history.best_check,
            "compared": compared_rows(groups, **figures),
            "history": self.history.as_dict(),
        }


def use_threads(settings: TrainingSettings) -> None:
    """Let torch compute on as many CPU threads as the settings say; None leaves its default."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)


def run_training(
    trainable: Trainable,
    rows: TrainRows,
    loss: Loss,
    check: Callable[[], Check],
    settings: TrainingSettings,
    *,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    rule: Rule = WITHOUT_RULE,
) -> Outcome:
    """`model.training.fit`, with what each held-out row was before it and is at the best check.

    Those are of the checks that choose the checkpoint. A run that goes on from a checkpoint measures both itself, for
    its first check, and maybe its best, was in the run before.
    """
    goes_on = checkpoints is not None and checkpoints.facts() is not None
    before = check().rows if goes_on else None
    checked: list[list[float]] = []

    def evaluate() -> dict[str, float]:
        found = check()
        checked.append(found.rows)
        return found.figures

    objective = Objective(loss, evaluate)
    with recomputed_layers(trainable.models) if settings.activation_checkpointing else nullcontext():
        history = fit(
            trainable, rows, objective, settings, progress=progress, checkpoints=checkpoints, rule=rule
        )
    if before is not None:
        return Outcome(history, before, check().rows)
    return Outcome(history, checked[0], checked[history.best_index])


def write_results(
    out: Path,
    report: dict,
    weights: Mapping[str, Path],
    data: Mapping[str, Sequence],
    settings: BaseModel,
    history: History,
) -> None:
    """report.json and the card (see `write_card`) of the weights that lie in `out` already."""
    write_json(report, Path(out) / "report.json")
    write_card(out, weights, data, settings, history)
