"""Step checkpoints of a training run: all that the next step depends on, in one file, whole or not at all.

Knows nothing of losses, models, or of what the tensors are.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.weights import named

FILE = "step.safetensors"


class OtherTrainingError(ValueError):
    """The checkpoint that lies there was left by another training; the message says in what that differs."""


class Checkpoints:
    """The latest checkpoint of one run, in a folder of its own. How often it is written changes no result.

    events: where the run's curves are left (model/event_log.py); None leaves none. basis: all that the training
    depends on, by name, for a folder that another training may have used before; None where the folder is one
    training's own, as that of a stage's key is.
    """

    def __init__(
        self,
        folder: Path,
        every_s: float = 600.0,
        events: Path | None = None,
        basis: Mapping[str, str] | None = None,
    ):
        self.folder, self.every_s, self.events, self.basis = Path(folder), every_s, events, basis
        self._saved = time.monotonic()

    @property
    def path(self) -> Path:
        """The file of the checkpoint; it need not exist."""
        return self.folder / FILE

    def due(self) -> bool:
        """Whether `every_s` seconds have passed since the last save, or since the start."""
        return time.monotonic() - self._saved >= self.every_s

    def save(self, tensors: dict[str, Tensor], facts: dict) -> None:
        """Replace the checkpoint. `facts`: JSON values, floats kept exactly."""
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f"{FILE}.tmp"
        save_file(
            {name: t.detach().contiguous() for name, t in tensors.items()},
            draft,
            {"facts": json.dumps(facts), "basis": json.dumps(dict(self.basis or {}))},
        )
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, self.path)
        self._saved = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """The saved (tensors, facts), or None where there are none; as `facts`."""
        facts = self.facts()
        return None if facts is None else (load_file(self.path), facts)

    def facts(self) -> dict | None:
        """What was saved beside the tensors, which are not read; None where nothing was, or a damaged file: it is told.

        Raises OtherTrainingError where what was saved has another basis.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                facts, basis = (json.loads(file.metadata().get(name, "{}")) for name in ("facts", "basis"))
        except (SafetensorError, AttributeError, ValueError) as error:
            print(f"{self.path}: damaged ({error}); training starts again", file=sys.stderr, flush=True)
            return None
        self._check(basis)
        return facts

    def _check(self, saved: Mapping[str, str]) -> None:
        """OtherTrainingError where the `saved` basis is not the one of this run."""
        if self.basis is None:
            return
        names = sorted(self.basis.keys() | saved.keys())
        differing = [name for name in names if self.basis.get(name) != saved.get(name)]
        if differing:
            raise OtherTrainingError(
                f"{self.path}: not the same training ({named({'differing': differing})})"
            )
