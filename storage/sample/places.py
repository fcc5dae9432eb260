"""When the sample's lines are spoken, and how its files are named: what its texts and its clips must agree on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from storage.sample import actor
from storage.sample.script import Script, digest_seed


@dataclass(frozen=True, slots=True)
class Span:
    """When a line is spoken, in seconds from the start of its dialogue."""

    start: float
    end: float


def multidialog_stem(script: Script, turn: int) -> str:
    return f"{script.dialogue_id}_{turn}{script.lines[turn].speaker}"


def iemocap_session(root: Path, script: Script) -> Path:
    return root / "IEMOCAP_full_release" / f"Session{int(script.dialogue_id[3:5])}"


def iemocap_names(script: Script) -> list[str]:
    """Utterance names in the order of speaking; each actor is counted separately."""
    spoken = {"F": 0, "M": 0}
    names = []
    for line in script.lines:
        names.append(f"{script.dialogue_id}_{line.speaker}{spoken[line.speaker]:03}")
        spoken[line.speaker] += 1
    return names


def line_seed(script: Script, turn: int, seed: int) -> int:
    return digest_seed(seed, script.dataset, script.split, script.dialogue_id, turn)


def _seconds(script: Script, turn: int, seed: int) -> float:
    line = script.lines[turn]
    return actor.duration(line.text, line.acted, line_seed(script, turn, seed))


def turn_after_turn(script: Script, seed: int) -> list[Span]:
    """Spans with a fifth of a second between turns."""
    spans, now = [], 0.0
    for turn in range(len(script.lines)):
        spans.append(Span(now, now + _seconds(script, turn, seed)))
        now = spans[-1].end + 0.2
    return spans


def overlapping(script: Script, seed: int) -> list[Span]:
    """Spans that overlap a little, as IEMOCAP's segments do; on the 16 kHz grid."""
    spans, now = [], 0.8
    for turn in range(len(script.lines)):
        start = round(now * actor.RATE) / actor.RATE
        spans.append(Span(start, start + _seconds(script, turn, seed)))
        step = digest_seed("overlap", line_seed(script, turn, seed)) % 1000 / 1000
        now = spans[-1].end - 0.15 + 0.4 * step
    return spans
