"""Training the project's own emotion scorer, and measuring one, for the command line and its flow.

No stage: what it makes is shipped with the project, not built by a run. Knows nothing of the method itself.
"""

from __future__ import annotations

from pathlib import Path

from model.scorer.settings import HeadTrainingSettings
from storage.errors import InputError
from tasks.settings import read_json_settings


def fit_scorer(train: Path, dev: Path, out: Path, settings: Path | None) -> dict[str, float]:
    """Train on a GoEmotions-format file and write the folder `out`; returns the figures on `dev`.

    settings: a JSON file of HeadTrainingSettings; None takes the defaults. Raises InputError.
    """
    from model.scorer.train import train_goemotions_head

    chosen = (
        HeadTrainingSettings() if settings is None else read_json_settings(HeadTrainingSettings, settings)
    )
    _must_be_files(train, dev)
    try:
        return train_goemotions_head(train, dev, out, chosen)
    except ValueError as error:
        raise InputError(str(error)) from None


def measure_scorer(file: Path, weights: str) -> dict[str, float | str]:
    """Macro- and micro-F1 of the scorer `weights` (a name or a folder) on a GoEmotions-format file.

    Raises InputError.
    """
    from model.scorer.scorer import EmotionScorer
    from model.scorer.train import evaluate_scorer

    _must_be_files(file)
    try:
        return {"file": str(file), "weights": weights, **evaluate_scorer(EmotionScorer.load(weights), file)}
    except ValueError as error:
        raise InputError(str(error)) from None


def _must_be_files(*paths: Path) -> None:
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give a TSV of GoEmotions: text, label ids, comment id")
