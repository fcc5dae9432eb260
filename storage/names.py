"""What names a store may use: whatever is read from a store and becomes a part of a path is a type of this module, so
that it is checked where it enters.

A store is untrusted data: it may come from elsewhere, be damaged, or be malicious. Knows nothing of what the names
mean.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

DIGEST_BYTES = 16
LONGEST = 240
"""Characters of a name at most; file systems hold 255 bytes."""

_DIGEST = rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}"
_STAGE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def checked_stage(name: str) -> str:
    """A stage's name: letters, digits, "_" and "-", in parts that single dots join. ValueError for any other."""
    if len(name) > LONGEST or not _STAGE.fullmatch(name):
        raise ValueError(f"not a stage's name: {name!a}")
    return name


def checked_name(name: str) -> str:
    """A label, an artefact's name or a tree's member: a relative path below wherever it is put. ValueError for any other.

    Refused are absolute paths, "..", ".", empty parts, backslashes, and characters that are not to be printed.
    """
    parts = name.split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or "\\" in name or not name.isprintable() or len(name) > LONGEST:
        raise ValueError(f"not a name within a store: {name[:LONGEST]!a}")
    return name


def is_name(name: str) -> bool:
    """Whether `checked_name` accepts it."""
    try:
        return checked_name(name) == name
    except ValueError:
        return False


def is_digest(text: str) -> bool:
    """Whether it has the form of a digest."""
    return re.fullmatch(_DIGEST, text) is not None


Digest = Annotated[str, StringConstraints(pattern=f"^{_DIGEST}$")]
StageName = Annotated[str, AfterValidator(checked_stage)]
Name = Annotated[str, AfterValidator(checked_name)]
