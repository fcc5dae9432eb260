"""Dialogues that benchmarks are run on: MELD's where it lies beside the repository, else the bundled sample's.

No benchmark itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from model.spoken import Spoken
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
    return [[utterance.text for utterance in dialogue] for dialogue in spoken_dialogues(split)]


def spoken_dialogues(split: str) -> list[list[Spoken]]:
    """As `dialogues`, the utterances as a run gives them to the models."""
    if not MELD.is_dir():
        content = json.loads(SAMPLE.read_text(encoding="utf-8"))
        said = [[(turn["speaker"], turn["text"]) for turn in dialogue["turns"]] for dialogue in content]
    else:
        found: dict[str, list[tuple[str, str]]] = {}
        for utterance in read_labels(MELD, f"{split}_sent_emo.csv", split, DataSettings()).utterances:
            found.setdefault(utterance.dialogue_id, []).append((utterance.speaker, utterance.text))
        said = list(found.values())
    return [[Spoken(text, place) for text, place in _with_places(dialogue)] for dialogue in said]


def _with_places(dialogue: list[tuple[str, str]]) -> Iterator[tuple[str, int]]:
    """Each text with its speaker's place by order of appearance."""
    places: dict[str, int] = {}
    for speaker, text in dialogue:
        yield text, places.setdefault(speaker, len(places))


def sample_dialogues() -> list[list[str]]:
    """Lines of each dialogue of the bundled sample."""
    content = json.loads(SAMPLE.read_text(encoding="utf-8"))
    return [[turn["text"] for turn in dialogue["turns"]] for dialogue in content]
