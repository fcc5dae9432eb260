"""What a person typed, as an utterance that a model may be given: one line of bounded length, nothing invisible in it.

What is left out is counted. Knows nothing of tokens.
"""

from __future__ import annotations

import re
import unicodedata

from storage.errors import InputError
from tasks.terminal import JOINERS

MOST_CHARACTERS = 4000
"""Of a turn. A compressor reads the first 128 tokens of an utterance, and people say a few dozen."""
_TEMPLATE = re.compile(r"<\|[A-Za-z0-9_]{1,40}\|>|</?s>|\[/?INST\]")
"""The marks with which chat templates tell who speaks: typed, they would end the person's turn."""


def utterance(text: str, most: int = MOST_CHARACTERS) -> tuple[str, tuple[str, ...]]:
    """The text without control characters and template marks, white space made single; and a note of what was left out.

    InputError where nothing is left of it, or it is too long.
    """
    if len(text) > most:
        raise InputError(
            f"the turn has {len(text):,} characters; say it in at most {most:,}, or in several turns"
        )
    notes = []
    kept = "".join(c for c in text if not _unseen(c))
    if len(kept) < len(text):
        notes.append(f"{len(text) - len(kept)} control characters were left out")
    without, marks = _TEMPLATE.subn(" ", kept)
    if marks:
        notes.append(f"{marks} marks of a chat template were left out")
    line = " ".join(without.split())
    if not line:
        raise InputError("the turn is empty; type what is said, beside a clip too")
    return line, tuple(notes)


def _unseen(character: str) -> bool:
    """Controls, direction marks and halves of characters; white space, and what joins an emoji's parts, are none."""
    if character.isspace() or character in JOINERS:
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs") and not _of_a_flag(character)


def _of_a_flag(character: str) -> bool:
    """The tags that make the flags of Scotland and Wales."""
    return "\U000e0020" <= character <= "\U000e007f"
