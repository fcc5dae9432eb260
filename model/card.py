"""The card beside every adapter or checkpoint: what it was made from, how, and how well it learnt.

Knows nothing of any method. A card holds digests and no paths, so that equal runs write equal cards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor

from model.features.stored import Stored
from model.json_files import write_json
from model.processes import Processes
from model.training import History
from model.zoo.resolve import RECORD, identity, recorded_commit

CARD = "card.json"


def write_card(
    folder: Path,
    weights: Mapping[str, Path],
    data: Mapping[str, Sequence],
    settings: BaseModel,
    history: History,
) -> None:
    """card.json in `folder`, whose *.safetensors it names by digest, adapters in folders of their own too.

    weights: role -> folder of the weights that were built upon; data: split -> rows that were learnt from or
    looked at (dataclasses, tuples, texts, tensors).
    """
    folder = Path(folder)
    content = {
        "weights": {role: weights_identity(path) for role, path in weights.items()},
        "data": {split: {"rows": len(rows), "sha256": rows_digest(rows)} for split, rows in data.items()},
        "settings": settings.model_dump(mode="json"),
        "heldout_before": history.first_check,
        "heldout_after": history.best_check,
        "steps": len(history.train),
        "tokens": history.tokens,
        "files": {path.relative_to(folder).as_posix(): _file_digest(path) for path in _weight_files(folder)},
    }
    write_json(content, folder / CARD)


def add_to_card(folder: Path, **facts: str) -> None:
    """What the card of a method says beside what every card does."""
    path = Path(folder) / CARD
    write_json({**json.loads(path.read_text(encoding="utf-8")), **facts}, path)


def weights_identity(folder: Path) -> str:
    """Where weights came from: their pinned source, and of a branch the commit that was fetched; or else a digest of the
    folder's files."""
    record = Path(folder) / RECORD
    if not record.is_file():
        return identity(str(folder))
    source = json.loads(record.read_text(encoding="utf-8"))["identity"]
    commit = recorded_commit(Path(folder))
    return source if commit is None or source.endswith(commit) else f"{source} (commit {commit})"


def rows_digest(rows: Sequence) -> str:
    """SHA-256 of the rows' own SHA-256, in their order. Each process that trains reads its share of their features."""
    return hashlib.sha256("".join(Processes().dealt(rows, _row_digest)).encode()).hexdigest()


def _row_digest(row) -> str:
    digest = hashlib.sha256()
    _add(digest, row)
    return digest.hexdigest()


def _add(digest, value) -> None:
    if isinstance(value, Stored):
        value = value.read()
    if dataclasses.is_dataclass(value):
        _add(digest, [getattr(value, field.name) for field in dataclasses.fields(value)])
    elif isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        for part in value:
            _add(digest, part)
    else:
        digest.update(json.dumps(value).encode())


def _weight_files(folder: Path) -> list[Path]:
    """A folder's own, and those of the adapters that are part of it; not what lies there of a run that goes on."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*/adapter_model.safetensors")])


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
