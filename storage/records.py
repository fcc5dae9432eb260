"""The typed records of a store, validated where they are read: references, records, trees' members.

Knows nothing of where any of it lies (storage/store.py).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from storage.files import UnreadableError
from storage.names import Digest, Name, StageName

FORMAT = 1
"""Version of a record's format. Records written before formats existed have none and are still read."""
Count = Annotated[int, Field(ge=0)]


class NewerError(UnreadableError):
    """A record of a later version: nothing is wrong with it, and this version must leave it alone."""


class Ref(BaseModel, frozen=True, extra="forbid"):
    """An artefact: the name its stage gave it and the digest of its bytes (a tree's: of its listing).

    views: of a table's shard, the digest of each view's rows (storage/tables). view: the one that a reader is
    given; empty for the whole.
    """

    name: Name
    digest: Digest
    size: Count
    rows: Count = 0
    rejects: Count = 0
    tree: bool = False
    views: dict[str, Digest] = {}
    view: str = ""

    def seen_as(self, view: str) -> Ref:
        """The artefact as a reader of one of its views is given it."""
        return self.model_copy(update={"view": view})

    @property
    def content(self) -> str:
        """The digest of what its reader reads; of the whole where the view's is not known."""
        return self.views.get(self.view, self.digest) if self.view else self.digest


class Member(BaseModel, frozen=True, extra="forbid"):
    """A file of a tree: its path below the tree's folder and the digest of its bytes."""

    name: Name
    digest: Digest
    size: Count


class Record(BaseModel, frozen=True, extra="forbid"):
    """What one finished item put out. inputs: digests of the artefacts it read; None where the record does not say."""

    stage: StageName
    label: Name
    key: Digest
    outputs: tuple[Ref, ...]
    inputs: tuple[Digest, ...] | None = None


class Parts(BaseModel, extra="allow"):
    """What a key was made from, by kind. A store reads digests by artefact or raw file, and the views seen."""

    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)
    input: dict[str, Digest] = {}
    seen: dict[str, tuple[str, Digest]] = {}


class Last(BaseModel, frozen=True, extra="forbid"):
    """What an item was last made from."""

    key: Digest
    label: Name
    parts: Parts


class Damage(BaseModel, frozen=True, extra="forbid"):
    """A tree whose layout was found damaged, and (stage, key) of what may have been made from it."""

    tree: Digest
    records: tuple[tuple[StageName, Digest], ...]
