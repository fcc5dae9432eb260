"""Flow: GoEmotions in, the project's own emotion scorer out; its weights are shipped, so no other flow needs it."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from tasks.scorer import fit_scorer


@flow(name="train-scorer")
def train_scorer(train: Path, dev: Path, out: Path, settings: Path | None = None) -> dict[str, float]:
    """Train the scorer on the train file, choose its epoch on the dev file, write its folder; returns dev figures."""
    return fit_scorer(train, dev, out, settings)
