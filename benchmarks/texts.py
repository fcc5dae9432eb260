"""Dialogues that benchmarks are run on: MELD's where it lies beside the repository, else the bundled sample's.

No benchmark itself.
"""

from __future__ import annotations

import json
from pathlib import Path

from storage.readers.meld import read_labels
from storage.settings import DataSettings

ROOT = Path(__file__).resolve().parents[1]
MELD = ROOT.parent / "shared" / "data" / "meld"
SAMPLE = ROOT / "storage" / "sample" / "dialogues.json"


def source() -> str:
    """What `dialogues` reads."""
    return "MELD" if MELD.is_dir() else "the sample"


def dialogues(split: str) -> list[list[str]]:
    """Lines of each dialogue of a split ("train" or "dev"), in order; the sample has one split."""
    if not MELD.is_dir():
        return sample_dialogues()
    found: dict[str, list[str]] = {}
    for utterance in read_labels(MELD, f"{split}_sent_emo.csv", split, DataSettings()).utterances:
        found.setdefault(utterance.dialogue_id, []).append(utterance.text)
    return list(found.values())


def sample_dialogues() -> list[list[str]]:
    """Lines of each dialogue of the bundled sample."""
    content = json.loads(SAMPLE.read_text(encoding="utf-8"))
    return [[turn["text"] for turn in dialogue["turns"]] for dialogue in content]
