"""What a run would read of a file or folder, and every problem of a user's own dialogues, by file and line.

Knows nothing of stages or of how what it finds is printed.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from storage.errors import InputError
from storage.exchanges import cut_exchanges
from storage.readers import own
from storage.readers.common import Dialogues, RawDataError, RawDataset
from storage.readers.find import find_datasets, read_dataset
from storage.readers.registry import dataset_named
from storage.settings import DataSettings
from storage.utterance import SPLITS, Reject

UNUSED = ("not_read", "clip_without_row")
"""Files that no row names: reported, but no row's fault."""


@dataclass
class Checked:
    """One dataset. problems: "file:line: what is wrong"; notes: other lines for the person."""

    title: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    summary: dict = field(default_factory=dict)


def check(path: Path, settings: DataSettings) -> list[Checked]:
    """Every dataset of a folder, or one file of own dialogues. InputError: there is nothing that could be read."""
    if path.is_dir():
        return [check_dataset(raw, path, settings) for raw in find_datasets(path)]
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    if not path.name.lower().endswith((".jsonl", ".csv")):
        raise InputError(f"{path}: own dialogues are .jsonl or .csv; see the README, Your own data")
    files = (path.name, *clips_there(path))
    found = check_dataset(RawDataset(own.DATASET, path.parent, files), path.parent, settings)
    if not own.NAME.fullmatch(path.name):
        stem, suffix = os.path.splitext(path.name)
        found.notes.append(
            f"a run finds this file once it is called dialogues{suffix.lower()} or {stem}.dialogues{suffix.lower()}"
        )
    return [found]


def clips_there(path: Path) -> list[str]:
    """The clips that the rows of a file name and that lie there, relative to its folder."""
    named = (
        str(row.get("clip") or "").strip()
        for _, row in own.rows_of(path.parent, path.name, own.Rows())
        if isinstance(row, dict)
    )
    inside = {posixpath.normpath(name) for name in named if name and "\0" not in name}
    return sorted(n for n in inside if not n.startswith(("..", "/")) and os.path.isfile(path.parent / n))


def check_dataset(raw: RawDataset, root: Path, settings: DataSettings) -> Checked:
    found = Checked(dataset_named(raw.dataset).title)
    if raw.dataset == own.DATASET:
        unknown = own.read_rows(raw, root, settings).unknown
        found.problems += map(str, unknown)
        settings = without_target(unknown, settings)
    try:
        read = read_dataset(raw, root, settings, lambda path: os.fspath(path))
    except RawDataError as error:
        if raw.dataset != own.DATASET:
            raise
        read = own.as_dialogues(own.read_rows(raw, root, settings))
        found.notes.append(str(error))
    faults = [r for r in [*read.rejects, *read.defects] if r.reason not in UNUSED]
    if raw.dataset == own.DATASET:
        found.problems = sorted({*found.problems, *map(line_of, faults)}, key=by_place)
    else:
        # Defects of a release are known, and no fault of who unpacked it.
        found.notes += [f"{count} {reason}" for reason, count in Counter(r.reason for r in faults).items()]
    found.notes += [f"not used: {r.detail}" for r in read.defects if r.reason in UNUSED]
    found.notes += read.notes
    found.summary = summary_of(read)
    return found


def without_target(unknown: list, settings: DataSettings) -> DataSettings:
    """The settings by which labels that nobody knows have no target, so that the rest can be read."""
    if not unknown:
        return settings
    spellings = dict.fromkeys(error.spelling for error in unknown)
    labels = settings.labels.model_copy(update={"map": {**settings.labels.map, **spellings}})
    return settings.model_copy(update={"labels": labels})


def line_of(fault: Reject) -> str:
    """A row's fault as its detail says; one that a later look found names the row by its key."""
    if re.match(r".+:[0-9]+: ", fault.detail):
        return fault.detail
    return f"{fault.split}/{fault.dialogue_id} turn {fault.turn}: {fault.reason}: {fault.detail}"


def by_place(problem: str) -> tuple[str, int, str]:
    match = re.match(r"(.+?):([0-9]+): ", problem)
    return (match[1], int(match[2]), problem) if match else ("", 0, problem)


def summary_of(read: Dialogues) -> dict:
    """What a run would read, for JSON and for people."""
    exchanges, fallen = cut_exchanges(read.utterances)
    emotions = Counter(u.emotion or "none" for u in read.utterances)
    by_split = {
        split: {
            "dialogues": len({u.dialogue_id for u in read.utterances if u.split == split}),
            "utterances": sum(u.split == split for u in read.utterances),
            "exchanges": sum(e.split == split for e in exchanges),
        }
        for split in SPLITS
        if any(u.split == split for u in read.utterances)
    }
    return {
        "dialogues": len({(u.split, u.dialogue_id) for u in read.utterances}),
        "utterances": len(read.utterances),
        "exchanges": len(exchanges),
        "pairs_of_one_speaker": fallen["same_speaker"],
        "pairs_across_a_gap": fallen["gap"],
        "emotions": dict(sorted(emotions.items())),
        "clips": len({u.audio_path or u.video_path for u in read.utterances} - {None}),
        "rows": read.rows,
        "turned_away": len(read.rejects),
        "splits": by_split,
    }
