"""What public issues report as bad in the releases: one table, with the reason and who reports it.

Knows nothing of how files are found. What an entry does to a row is its `action`:
    media, video, audio   the row stays, without its clip, its picture or its sound
    flag                  the row stays as it is and is counted; the features stage judges its length
    missing               explains a row that has no clip
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from storage.utterance import Reject, Utterance


@dataclass(frozen=True)
class KnownBad:
    """One entry. `split` None: in whichever it is (the report does not say); `turn` None: every turn."""

    dataset: str
    split: str | None
    dialogue_id: str
    turn: int | None
    action: Literal["media", "video", "audio", "flag", "missing"]
    reason: str
    source: str


MELD_DAMAGED = "declare-lab/MELD issues 39 and 52"
MELD_MISSING = "declare-lab/MELD issues 22 and 27"
MELD_MISCUT = "declare-lab/MELD issue 20"
MELD_DRIFT = "declare-lab/MELD issue 9"
MELD_TIMES = "the label file: StartTime and EndTime"
CREMA_D_README = "CheyneyComputerScience/CREMA-D README and issue 8"
RAVDESS_AUDIT = "published audit of the wav files"


def _meld(split: str | None, action: str, reason: str, source: str, *clips: tuple[int, int | None]) -> list:
    return [KnownBad("meld", split, str(d), turn, action, reason, source) for d, turn in clips]


def _clips(dataset: str, action: str, reason: str, source: str, *names: str) -> list:
    return [KnownBad(dataset, None, name, 0, action, reason, source) for name in names]


KNOWN_BAD: tuple[KnownBad, ...] = (
    *_meld("train", "media", "damaged file: no index", MELD_DAMAGED, (125, 3)),
    *_meld("dev", "missing", "missing from the release", MELD_MISSING, (110, 7)),
    *_meld("test", "media", "wrong cut of minutes", MELD_MISCUT, (38, 4), (220, 0)),
    *_meld("train", "media", "wrong cut of 41 s", MELD_MISCUT, (309, 0)),
    *_meld("train", "media", "cut of two frames", MELD_TIMES,
           (71, 0), (179, 8), (312, 9), (332, 1), (338, 3), (406, 2), (523, 10), (598, 3)),
    *_meld("dev", "media", "cut of two frames", MELD_TIMES, (99, 3), (108, 5)),
    *_meld("test", "media", "start and end are equal", MELD_TIMES, (155, 3)),
    *_meld("train", "flag", "text and clip drift apart", MELD_DRIFT,
           (793, 0), (682, 1), (529, 2), (1029, 1), (1008, 1), (757, 7)),
    *_meld("train", "flag", "cut of 26 s", MELD_DRIFT, (485, 0)),
    *_meld(None, "flag", "text and clip drift apart", MELD_DRIFT, (164, 5), (241, None)),
    *_clips("crema_d", "media", "no sound, and an error picture", CREMA_D_README, "1076_MTI_SAD_XX"),
    *_clips("crema_d", "media", "a minute with every emotion", CREMA_D_README, "1064_IEO_DIS_MD"),
    *_clips("crema_d", "flag", "the flv has no sound; the wav has", CREMA_D_README, "1076_MTI_NEU_XX"),
    *_clips("crema_d", "flag", "the flv states no length", CREMA_D_README, "1064_TIE_SAD_XX"),
    *_clips("ravdess", "audio", "the sound of repetition 01 again", RAVDESS_AUDIT, "01-03-01-02-02-07"),
    *_clips("ravdess", "flag", "stereo among mono files", RAVDESS_AUDIT,
            "01-02-01-01-02-01", "01-08-01-02-02-01", "01-02-01-02-02-05", "01-03-01-02-01-20",
            "01-06-01-01-02-20", "02-01-01-01-01-24"),
)  # fmt: skip


def withdraw(
    utterances: Iterable[Utterance], table: tuple[KnownBad, ...] = KNOWN_BAD
) -> tuple[list[Utterance], list[Reject]]:
    """The utterances without the media that the table names, and a line for each entry that met a clip."""
    entries: dict[tuple[str, str], list[KnownBad]] = {}
    for entry in table:
        entries.setdefault((entry.dataset, entry.dialogue_id), []).append(entry)
    utterances = list(utterances)
    media = any(map(_has_media, utterances))
    kept, told = [], []
    for utterance in utterances:
        for entry in entries.get((utterance.dataset, utterance.dialogue_id), ()):
            wrong = media and _has_media(utterance) != (entry.action == "missing")
            if wrong and _names(entry, utterance):
                told.append(_line(entry, utterance))
                utterance = _without(utterance, entry.action)
        kept.append(utterance)
    return kept, told


def _has_media(utterance: Utterance) -> bool:
    return bool(utterance.video_path or utterance.audio_path)


def _names(entry: KnownBad, utterance: Utterance) -> bool:
    return entry.split in (None, utterance.split) and entry.turn in (None, utterance.turn)


def _line(entry: KnownBad, utterance: Utterance) -> Reject:
    reason = {"flag": "known_bad_flagged", "missing": "known_missing"}.get(entry.action, "known_bad")
    what = "" if entry.action in ("flag", "missing") else f"{entry.action} withdrawn: "
    return Reject(*utterance.key, reason=reason, detail=f"{what}{entry.reason} ({entry.source})")


def _without(utterance: Utterance, action: str) -> Utterance:
    gone = {"media": ("video_path", "audio_path"), "video": ("video_path",), "audio": ("audio_path",)}
    changes = dict.fromkeys(gone.get(action, ()))
    if action in ("media", "video"):
        changes |= dict.fromkeys(("start", "end", "side"))
    return replace(utterance, **changes) if changes else utterance
