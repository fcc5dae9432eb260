"""What a dataset is to this project: one entry, kept in the module that reads it and listed in the registry.

Knows nothing of which datasets there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storage.fetch.sources import Source
from storage.labels import LabelTable
from storage.readers.common import Dialogues, RawDataset, draw_test_split
from storage.readers.known_bad import KnownBad
from storage.readers.published import Published
from storage.settings import DataSettings


def no_test_parts(name: str, parts: set[str], settings: DataSettings) -> set[str]:
    """For a release with its own splits."""
    return set()


@dataclass(frozen=True)
class Dataset:
    """One dataset.

    name: in keys, shards and settings. title: what people call it. example: a file by which it is recognised.
    claim(paths): of all files under a root, those it reads. read: its utterances, sorted by nothing yet.
    test_parts(name, parts, settings): where a release has no splits, which dialogues (of single clips: which
    actors) are tested on. single_clips: clips for emotion recognition alone, without dialogues or replies. source:
    its publisher, or None. known_bad, published: see there. not_needed: paths of files that the release
    ships and no reader needs; all other files are reported.
    """

    name: str
    title: str
    example: str
    claim: Callable[[list[str]], list[str]]
    read: Callable[[RawDataset, Path, DataSettings], Dialogues]
    labels: LabelTable
    test_parts: Callable[[str, set[str], DataSettings], set[str]] = no_test_parts
    single_clips: bool = False
    source: Source | None = None
    known_bad: tuple[KnownBad, ...] = ()
    published: tuple[Published, ...] = ()
    not_needed: re.Pattern | None = None

    @property
    def unit(self) -> str:
        """What must stay in one split: a dialogue, or a single clip's actor."""
        return "actors" if self.single_clips else "dialogues"


def share_of_dialogues(name: str, parts: set[str], settings: DataSettings) -> set[str]:
    """`data.test_share` of the dialogues."""
    return draw_test_split(parts, settings.test_share, settings.seed, name)


def share_of_actors(name: str, parts: set[str], settings: DataSettings) -> set[str]:
    """`data.actor_test_share` of the actors of single clips."""
    return draw_test_split(parts, settings.actor_test_share, settings.seed, name)
