"""What public issues report as bad in a release, and what that does to its rows.

The entries stand beside the readers. Knows nothing of how files are found. What an entry does to a row is its `action`:
    media, video, audio   the row stays, without its clip, its picture or its sound
    flag                  the row stays as it is and is counted; the features stage judges its length
    missing               explains a row that has no clip
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from storage.utterance import Reject, Utterance

Action = Literal["media", "video", "audio", "flag", "missing"]


@dataclass(frozen=True)
class KnownBad:
    """One entry of a dataset. `split` None: in whichever it is (the report does not say); `turn` None: every turn."""

    split: str | None
    dialogue_id: str
    turn: int | None
    action: Action
    reason: str
    source: str


def withdraw(
    utterances: Iterable[Utterance], table: tuple[KnownBad, ...]
) -> tuple[list[Utterance], list[Reject]]:
    """One dataset's utterances without the media that its table names, and a line for each entry that met a clip."""
    entries: dict[str, list[KnownBad]] = {}
    for entry in table:
        entries.setdefault(entry.dialogue_id, []).append(entry)
    utterances = list(utterances)
    media = any(map(_has_media, utterances))
    kept, withdrawn = [], []
    for utterance in utterances:
        for entry in entries.get(utterance.dialogue_id, ()):
            wrong = media and _has_media(utterance) != (entry.action == "missing")
            if wrong and _names(entry, utterance):
                withdrawn.append(_line(entry, utterance))
                utterance = _without(utterance, entry.action)
        kept.append(utterance)
    return kept, withdrawn


def _has_media(utterance: Utterance) -> bool:
    return bool(utterance.video_path or utterance.audio_path)


def _names(entry: KnownBad, utterance: Utterance) -> bool:
    return entry.split in (None, utterance.split) and entry.turn in (None, utterance.turn)


def _line(entry: KnownBad, utterance: Utterance) -> Reject:
    reason = {"flag": "known_bad_flagged", "missing": "known_missing"}.get(entry.action, "known_bad")
    what = "" if entry.action in ("flag", "missing") else f"{entry.action} withdrawn: "
    return Reject(*utterance.key, reason=reason, detail=f"{what}{entry.reason} ({entry.source})")


def _without(utterance: Utterance, action: str) -> Utterance:
    if action in ("media", "audio"):
        utterance = replace(utterance, audio_path=None)
    if action in ("media", "video"):
        utterance = replace(utterance, video_path=None, start=None, end=None, side=None)
    return utterance
