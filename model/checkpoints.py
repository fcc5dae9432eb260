"""Step checkpoints of a training run: all that the next step depends on, in one file, whole or not at all, with a
check of every byte of it.

Knows nothing of losses, models, or of what the tensors are.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.weights import named

FILE = "step.safetensors"
UNCHECKED = "0" * 32
"""Stands in the file's header where its digest will; the digest is that of the file with these digits."""
CHUNK = 1 << 24


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

    def within(self, name: str) -> Checkpoints:
        """Checkpoints of a part of the run, in a folder of its own inside this one, curves likewise."""
        events = None if self.events is None else self.events / name
        return Checkpoints(self.folder / name, self.every_s, events, self.basis)

    def check(self) -> None:
        """Raises OtherTrainingError where what lies there, of this run or of a part of it, has another basis."""
        self.facts()
        for path in sorted(self.folder.glob(f"*/{FILE}")):
            self.within(path.parent.name).facts()

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
            {"facts": json.dumps(facts), "basis": json.dumps(dict(self.basis or {})), "check": UNCHECKED},
        )
        with open(draft, "r+b") as file:
            _, digest, at = _checked(file)
            file.seek(at)
            file.write(digest.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, self.path)
        self._saved = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """The saved (tensors, facts), or None where there are none; as `facts`."""
        facts = self.facts()
        return None if facts is None else (load_file(self.path), facts)

    def facts(self) -> dict | None:
        """What was saved beside the tensors, which are not read; None where nothing was, or where the file is damaged, which is printed.

        Raises OtherTrainingError where what was saved has another basis.
        """
        if not self.path.is_file():
            return None
        try:
            with open(self.path, "rb") as file:
                said, digest, at = _checked(file)
                if at and said != digest:
                    raise ValueError("it does not match its own check")
            with safe_open(self.path, framework="pt") as file:
                saved = file.metadata()
            if not at and saved.keys() - {"facts", "basis"}:  # one from before checks has these alone
                raise ValueError("its check is damaged")
            facts, basis = (json.loads(saved.get(name, "{}")) for name in ("facts", "basis"))
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


def _checked(file: BinaryIO) -> tuple[str, str, int]:
    """(the digest that a checkpoint says it has, the one it has, where in the file it says so).

    The place is 0 in a checkpoint from before they had one. ValueError where there is no header.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= size - 8:
        raise ValueError("no header")
    header = file.read(length)
    name = b'"check":"'  # what stands inside the facts has its quotes escaped
    at = header.find(name) + len(name)
    if at < len(name):
        return "", "", 0
    said = header[at : at + len(UNCHECKED)]
    state = hashlib.blake2b(length.to_bytes(8, "little"), digest_size=16)
    state.update(header[:at] + UNCHECKED.encode() + header[at + len(UNCHECKED) :])
    while chunk := file.read(CHUNK):
        state.update(chunk)
    return said.decode(errors="replace"), state.hexdigest(), 8 + at
