"""The written dialogues of the sample corpus, and the numbers that follow from a seed.

Reads `dialogues.json`, text written for this project. Knows nothing of sound, pictures or raw layouts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from storage.utterance import EMOTIONS

MELD, MULTIDIALOG, IEMOCAP = "MELD", "MultiDialog", "IEMOCAP"
DATASETS = (MELD, MULTIDIALOG, IEMOCAP)

ACTED_AS = {"excited": "happy", "frustrated": "angry", "undecided": "neutral"}
"""Labels only IEMOCAP has, and the emotion in which the actor plays them."""


@dataclass(frozen=True, slots=True)
class Line:
    """One written turn: who speaks, in which emotion (one of EMOTIONS or of ACTED_AS), and what."""

    speaker: str
    emotion: str
    text: str

    @property
    def acted(self) -> str:
        """The emotion, one of EMOTIONS, in which the actor plays the line."""
        return ACTED_AS.get(self.emotion, self.emotion)


@dataclass(frozen=True, slots=True)
class Script:
    """One written dialogue. `split` is None for IEMOCAP, which has no official split."""

    dataset: str
    split: str | None
    dialogue_id: str
    media: bool
    lines: tuple[Line, ...]

    @property
    def official_split(self) -> str:
        """The split of a MELD or MultiDialog dialogue."""
        assert self.split is not None, f"{self.dataset} has no official split"
        return self.split


def digest_seed(*parts: object) -> int:
    """A 64-bit seed that depends on the parts alone, in every process."""
    joined = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(joined.encode()).digest()[:8], "big")


def load_scripts(per_split: int | None = None, turns: int | None = None) -> list[Script]:
    """The dialogues in file order.

    With `per_split`, at most that many of every (dataset, split), those with media first; with `turns`, at
    most that many first turns of each.
    """
    records = json.loads(Path(__file__).with_name("dialogues.json").read_text(encoding="utf-8"))
    scripts = [_script(record, turns) for record in records]
    if per_split is None:
        return scripts
    kept: list[Script] = []
    for group in dict.fromkeys((s.dataset, s.split) for s in scripts):
        members = [s for s in scripts if (s.dataset, s.split) == group]
        kept += sorted(members, key=lambda s: not s.media)[:per_split]
    return [s for s in scripts if s in kept]


def _script(record: dict, turns: int | None) -> Script:
    lines = tuple(Line(**turn) for turn in record["turns"][:turns])
    for number, line in enumerate(lines):
        if line.acted not in EMOTIONS:
            raise ValueError(f"dialogues.json {record['id']} turn {number}: no emotion {line.emotion!r}")
    return Script(record["dataset"], record["split"], record["id"], record["media"], lines)
