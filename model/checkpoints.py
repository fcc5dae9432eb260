"""Step checkpoints of a training run: all that the next step depends on, in one file, whole or not at all.

Knows nothing of losses, models, or of what the tensors are.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FILE = "step.safetensors"


class Checkpoints:
    """The latest checkpoint of one run, in a folder of its own. How often it is written changes no result.

    events: where the run's curves are left (model/event_log.py); None leaves none.
    """

    def __init__(self, folder: Path, every_s: float = 600.0, events: Path | None = None):
        self.folder, self.every_s, self.events = Path(folder), every_s, events
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
            {"facts": json.dumps(facts)},
        )
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, self.path)
        self._saved = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """The saved (tensors, facts), or None where there are none. A damaged file is told and left out."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = json.loads(file.metadata()["facts"])
                return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            print(f"{self.path}: damaged ({error}); training starts again", file=sys.stderr, flush=True)
            return None
