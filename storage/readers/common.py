"""What the readers share: their result types, the walk over a raw tree, copies of a file, and splits.

Knows nothing of any one dataset's layout, of labels, or of Parquet.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from storage.errors import InputError
from storage.utterance import Reject, Utterance

Parsed = TypeVar("Parsed")

# IEMOCAP holds tens of thousands of motion-capture and alignment files that nothing here reads.
SKIPPED_FOLDERS = {"__MACOSX", "ForcedAlignment"}


class RawDataError(InputError):
    """The raw data cannot be read as it is: one line that says what, where, and what to do."""


@dataclass(frozen=True)
class RawDataset:
    """One dataset found under a raw root.

    `folder` is the deepest folder holding all of it; `files` are the paths its reader depends on, relative
    to the root, with "/" and sorted.
    """

    dataset: str
    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass
class Dialogues:
    """What a reader hands back: utterances sorted by key, what it turned away, and notes for the data card."""

    utterances: list[Utterance] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def walk(root: Path) -> list[str]:
    """All files below `root` as sorted relative paths; names starting with "." (Mac twins) are left out.

    Links to folders are followed, each real folder once.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    pending = [("", str(root))]
    while pending:
        relative, folder = pending.pop()
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.startswith("."):
                    continue
                path = f"{relative}/{entry.name}" if relative else entry.name
                if entry.is_file():
                    found.append(path)
                elif entry.is_dir() and not skipped_folder(entry.name):
                    pending.append((path, entry.path))
    return sorted(found)


def skipped_folder(name: str) -> bool:
    return name in SKIPPED_FOLDERS or name.startswith("MOCAP_")


def by_depth(paths: Iterable[str]) -> list[str]:
    """Shallowest first; paths of one depth in name order."""
    return sorted(paths, key=lambda path: (path.count("/"), path))


def choose_copy(
    dataset: str, copies: Iterable[str], parse: Callable[[str], Parsed], rows: Callable[[Parsed], object]
) -> tuple[Parsed, list[str]]:
    """Parse the shallowest of several copies; also return the deeper ones, which must hold the same rows.

    `rows(parsed)` gives what has to be equal (after normalising). RawDataError where a copy differs.
    """
    first, *others = by_depth(copies)
    chosen = parse(first)
    for other in others:
        if rows(parse(other)) != rows(chosen):
            raise RawDataError(
                f"{dataset}: {other} and {first} are copies of one thing with different rows; "
                "take one of them out of the raw folder"
            )
    return chosen, others


def copies_note(dataset: str, ignored: list[str]) -> list[str]:
    if not ignored:
        return []
    return [f"{dataset}: ignored deeper copies with the same rows: {', '.join(sorted(ignored))}"]


def read_text(root: Path, relative: str) -> str:
    """A UTF-8 text file (byte-order mark allowed) with its line ends as they are."""
    try:
        return (root / relative).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RawDataError(
            f"{relative}: not UTF-8 at byte {error.start}; the release is UTF-8, unpack it again"
        ) from None
    except OSError as error:
        raise RawDataError(f"{relative}: cannot be read: {error.strerror}") from None


def unit_hash(seed: int, *parts: str) -> float:
    """A stable number in [0, 1) from a seed and a name."""
    text = "\0".join((str(seed), *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def smallest_hashes(dialogues: Collection[tuple[str, str]], count: int, seed: int, dataset: str) -> set:
    """The `count` (split, dialogue id) of smallest hash: one more dialogue in the corpus moves at most one."""
    ranked = sorted(dialogues, key=lambda d: (unit_hash(seed, "subset", dataset, *d), d))
    return set(ranked[:count])


def hold_out(dialogues: Collection[str], share: float, seed: int, dataset: str, name: str) -> set[str]:
    """The `share` of the dialogues with the smallest seeded hashes (`name` tells one drawing from another).

    One more dialogue moves at most one of the others. Of two or more dialogues at least one is held out and
    at least one is left, so that a small corpus has every split.
    """
    ranked = sorted(dialogues, key=lambda d: (unit_hash(seed, name, dataset, d), d))
    most = max(0, len(ranked) - 1)
    return set(ranked[: min(max(1, round(share * len(ranked))), most)])
