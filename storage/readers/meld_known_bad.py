"""Clips of MELD's release that are reported as bad, and what is done with each (known_bad.py)."""

from __future__ import annotations

from storage.readers.known_bad import Action, KnownBad

DAMAGED = "declare-lab/MELD issues 39 and 52"
MISSING = "declare-lab/MELD issues 22 and 27"
MISCUT = "declare-lab/MELD issue 20"
DRIFT = "declare-lab/MELD issue 9"
TIMES_SAY = "the label file: StartTime and EndTime"


def known_bad(
    split: str | None, action: Action, reason: str, reporter: str, *clips: tuple[int, int | None]
) -> list[KnownBad]:
    """clips: dialogue and turn."""
    return [KnownBad(split, str(dialogue), turn, action, reason, reporter) for dialogue, turn in clips]


KNOWN_BAD = (
    *known_bad("train", "media", "damaged file: no index", DAMAGED, (125, 3)),
    *known_bad("dev", "missing", "missing from the release", MISSING, (110, 7)),
    *known_bad("test", "media", "wrong cut of minutes", MISCUT, (38, 4), (220, 0)),
    *known_bad("train", "media", "wrong cut of 41 s", MISCUT, (309, 0)),
    *known_bad("train", "media", "cut of two frames", TIMES_SAY,
               (71, 0), (179, 8), (312, 9), (332, 1), (338, 3), (406, 2), (523, 10), (598, 3)),
    *known_bad("dev", "media", "cut of two frames", TIMES_SAY, (99, 3), (108, 5)),
    *known_bad("test", "media", "start and end are equal", TIMES_SAY, (155, 3)),
    *known_bad("train", "flag", "text and clip drift apart", DRIFT,
               (793, 0), (682, 1), (529, 2), (1029, 1), (1008, 1), (757, 7)),
    *known_bad("train", "flag", "cut of 26 s", DRIFT, (485, 0)),
    *known_bad(None, "flag", "text and clip drift apart", DRIFT, (164, 5), (241, None)),
)  # fmt: skip
