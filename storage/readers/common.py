"""What readers share: their result types, the walk over a raw tree, copies of a file, and splits.

Knows nothing of any one dataset's layout, of labels, or of Parquet.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from storage.draws import draw_number
from storage.errors import InputError
from storage.utterance import Reject, Utterance

Parsed = TypeVar("Parsed")

# IEMOCAP holds tens of thousands of motion-capture and alignment files that nothing here reads.
SKIPPED_FOLDERS = {"__MACOSX", "ForcedAlignment"}
LINE_END = re.compile("\r\n|\n|\r")
LFS_POINTER = b"version https://git-lfs"
LFS_POINTER_SIZE = 200
MOST_KINDS, MOST_EXAMPLES = 12, 3
MOST_TURNS = 2**31 - 1
"""Highest turn number: turns are 32-bit in the shards."""


class RawDataError(InputError):
    """The raw data cannot be read as it is: one line that says what, where, and what to do."""


@dataclass(frozen=True)
class RawDataset:
    """One dataset found under a raw root.

    `folder` is the deepest folder holding all of it; `files` are the paths its reader depends on, relative
    to the root, with "/" and sorted. `not_read`: what lies beside them and no reader takes, counted by suffix;
    `notes`: what of that the release ships and nothing here needs.
    """

    dataset: str
    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    not_read: tuple[str, ...] = ()


@dataclass
class Dialogues:
    """What a reader hands back: utterances sorted by key, rejects, and notes for the data card.

    `rows` counts the rows looked at: each became an utterance or a reject. `defects` are faults that cost no
    row: clips withdrawn, not used or flagged, label lines that belong to nothing.
    """

    utterances: list[Utterance] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    defects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: int = 0


def walk(root: Path) -> tuple[list[str], list[str]]:
    """(all files below `root`, what of it is left out), as sorted relative paths.

    Left out are names starting with "." (Mac twins), names that are not UTF-8, folders that no reader needs, and
    what is neither file nor folder, such as a broken link; a folder's name then ends with "/" and stands for all of
    it. Links to folders are followed, each real folder once. RawDataError: a folder that cannot be listed.
    """
    found: list[str] = []
    left_out: list[str] = []
    seen: set[tuple[int, int]] = set()
    pending = [("", str(root))]
    while pending:
        relative, folder = pending.pop()
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        for entry in list_folder(folder):
            path = f"{relative}/{entry.name}" if relative else entry.name
            strange = entry.name.startswith(".") or not is_text(entry.name)
            if entry.is_dir():
                if strange or skipped_folder(entry.name):
                    left_out.append(f"{path}/")
                else:
                    pending.append((path, entry.path))
            elif strange or not entry.is_file():
                left_out.append(path)
            else:
                found.append(path)
    return sorted(found), sorted(left_out)


def list_folder(folder: str) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda e: e.name)
    except OSError as error:
        raise RawDataError(f"{folder}: cannot be listed: {error.strerror}; make it readable") from None


def skipped_folder(name: str) -> bool:
    return name in SKIPPED_FOLDERS or name.startswith("MOCAP_")


def counted_by_suffix(names: Iterable[str]) -> list[str]:
    """How many names there are of each suffix as it is spelled, with a few of them: "2 *.WAV: a.WAV, b.WAV".

    Bounded whatever the names: of further suffixes only their number is given.
    """
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(kind_of(name), []).append(name)
    ranked = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    lines = []
    for kind, members in ranked[:MOST_KINDS]:
        more = ", …" if len(members) > MOST_EXAMPLES else ""
        lines.append(f"{len(members)} {kind}: {', '.join(map(printable, members[:MOST_EXAMPLES]))}{more}")
    if rest := ranked[MOST_KINDS:]:
        lines.append(f"{sum(len(members) for _, members in rest)} of {len(rest)} further kinds")
    return lines


def kind_of(name: str) -> str:
    last = file_name(name)
    if not last:
        return "folders"
    if last.startswith("."):
        return "hidden files"
    suffix = last.rpartition(".")[2] if "." in last else ""
    return f"*.{printable(suffix)[:20]}" if suffix else "files without a suffix"


def printable(name: str) -> str:
    """A name on one line: control characters, and bytes that are no UTF-8, are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)[:200]


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


class ReadFile(Protocol):
    def __call__(self, path: str, split: str) -> Dialogues:
        """What one file holds."""


def read_splits(
    dataset: str, files: Mapping[str, str], paths: Iterable[str], read_file: ReadFile
) -> Dialogues:
    """Read a text release that has one or more named files for each split.

    files: name -> split. A missing file is noted.
    """
    result = Dialogues()
    ignored: list[str] = []
    for name, split in files.items():
        copies = [path for path in paths if file_name(path) == name]
        if not copies:
            result.notes.append(f"{dataset}: no {name}")
            continue
        found, others = choose_copy(dataset, copies, partial(read_file, split=split), normalised_rows)
        ignored += others
        result.utterances += found.utterances
        result.rejects += found.rejects
        result.defects += found.defects
    result.rows = len(result.utterances) + len(result.rejects)
    result.notes += copies_note(dataset, ignored)
    return result


def normalised_rows(read: Dialogues) -> list[tuple]:
    """The rows, normalised, by which two copies of a file are compared."""
    rows = [(u.dialogue_id, u.turn, u.speaker, u.text, u.emotion_raw or "") for u in read.utterances]
    return sorted(rows) + sorted((r.dialogue_id, r.turn or -1, r.reason) for r in read.rejects + read.defects)


def choose_file(root: Path, what: str, candidates: Iterable[str]) -> tuple[str, list[str]]:
    """The shallowest of several files that are to show one thing, and the others.

    RawDataError, naming both, where another is of another size: it cannot be known which is meant.
    """
    first, *others = by_depth(candidates)
    for other in others:
        if os.path.getsize(root / other) != os.path.getsize(root / first):
            raise RawDataError(
                f"{what}: {first} and {other} may both be this one and differ in size; "
                "take one of them out of the raw folder"
            )
    return first, others


def read_text(root: Path, relative: str) -> str:
    """A UTF-8 text file (byte-order mark allowed) with its line ends as they are."""
    try:
        data = (root / relative).read_bytes()
        if is_pointer(data):
            raise RawDataError(f"{relative}: a Git LFS pointer, not the file; run `git lfs pull`")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RawDataError(
            f"{relative} line {line}: not UTF-8 at byte {error.start}; the release is UTF-8, unpack it again"
        ) from None
    except OSError as error:
        raise RawDataError(f"{relative}: cannot be read: {error.strerror}") from None


def lines_of(text: str) -> list[str]:
    """Lines by the three line ends of text files and no other: str.splitlines also cuts at U+2028 and U+0085."""
    return LINE_END.split(text)


def fields_of(line: str) -> list[str]:
    """The fields of one line of a CSV, stripped; none where its quotes do not close."""
    try:
        return [field.strip() for field in next(csv.reader((line,), strict=True), [])]
    except csv.Error:
        return []


def one_line(text: str) -> str:
    """Text without line ends and outer blanks."""
    return " ".join(filter(None, (line.strip() for line in lines_of(text))))


def without_repeated_dialogues(read: Dialogues, key: Callable[[list[Utterance]], Hashable]) -> Dialogues:
    """A dialogue that stands in two splits stays where it is tested on; its rows elsewhere are rejected.

    key(utterances of a dialogue): what makes two of them one.
    """
    dialogues: dict[tuple[str, str], list[Utterance]] = {}
    for utterance in read.utterances:
        dialogues.setdefault((utterance.split, utterance.dialogue_id), []).append(utterance)
    owners: dict[Hashable, str] = {}
    gone: set[tuple[str, str]] = set()
    for split in ("test", "dev", "train"):
        for place, said in dialogues.items():
            if place[0] == split and owners.setdefault(key(said), split) != split:
                gone.add(place)
    twice = [u for u in read.utterances if (u.split, u.dialogue_id) in gone]
    kept = [u for u in read.utterances if (u.split, u.dialogue_id) not in gone]
    rejects = [
        Reject(*u.key, reason="dialogue_in_two_splits", detail=f"taken out of {u.split}") for u in twice
    ]
    return replace(read, utterances=kept, rejects=read.rejects + rejects)


def whole_number(text: str) -> int:
    """A turn's number: ASCII digits alone, within 32 bits. ValueError otherwise (int() takes far more)."""
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > MOST_TURNS:
        raise ValueError(f"{text[:20]!r} is no number of a turn")
    return int(text)


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: JSON escapes and file names may hold halves of a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_pointer(data: bytes) -> bool:
    """Whether a file's content is what a clone without git-lfs leaves in its place."""
    return len(data) <= LFS_POINTER_SIZE and data.startswith(LFS_POINTER)


def is_pointer_file(path: Path) -> bool:
    return os.path.getsize(path) <= LFS_POINTER_SIZE and is_pointer(Path(path).read_bytes())


def file_name(path: str) -> str:
    return path.rpartition("/")[2]


def unit_hash(seed: int, draw: str, *parts: str) -> float:
    """A stable number in [0, 1) from a seed, the draw's name and what is drawn from."""
    return draw_number(seed, draw, *parts) / 2**64


def smallest_hashes(dialogues: Collection[tuple[str, str]], count: int, seed: int, dataset: str) -> set:
    """The `count` (split, dialogue id) of smallest hash: one more dialogue in the corpus moves at most one."""
    ranked = sorted(dialogues, key=lambda d: (unit_hash(seed, "subset", dataset, *d), d))
    return set(ranked[:count])


def draw_test_split(parts: Collection[str], share: float, seed: int, dataset: str) -> set[str]:
    """For a release without splits: the parts that become its test split."""
    return hold_out(parts, share, seed, dataset, "test")


def hold_out(dialogues: Collection[str], share: float, seed: int, dataset: str, name: str) -> set[str]:
    """The `share` of the dialogues with the smallest seeded hashes (`name` tells one drawing from another).

    One more dialogue moves at most one of the others. Of two or more dialogues at least one is held out and
    at least one is left, so that a small corpus has every split.
    """
    ranked = sorted(dialogues, key=lambda d: (unit_hash(seed, name, dataset, d), d))
    most = max(0, len(ranked) - 1)
    return set(ranked[: min(max(1, round(share * len(ranked))), most)])
