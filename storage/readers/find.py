"""Find the datasets under a raw root, and read one with its reader.

Knows subsets, splits, known-bad clips and media digests; nothing of any one dataset, nor of Parquet.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from storage.archives import SUFFIXES as ARCHIVE_SUFFIXES
from storage.archives import is_member, list_members, member_path, split_member
from storage.readers.common import (
    Dialogues,
    RawDataError,
    RawDataset,
    counted_by_suffix,
    hold_out,
    smallest_hashes,
    walk,
)
from storage.readers.dataset import Dataset
from storage.readers.known_bad import withdraw
from storage.readers.registry import DATASETS, dataset_named
from storage.readers.shared_clips import part_shared_clips
from storage.sample import MARKER
from storage.settings import DataSettings
from storage.utterance import SPLITS, Reject, Utterance

__all__ = ["Dialogues", "RawDataError", "RawDataset", "find_datasets", "read_dataset", "source_files"]


TEXT_SUFFIXES = (".csv", ".json", ".jsonl", ".txt")


def find_datasets(root: Path) -> list[RawDataset]:
    """The known datasets below `root`, recognised by folder and file names alone (no file is opened).

    RawDataError: the root is missing or empty, holds no known layout, or one that may be read in two ways.
    """
    root = Path(root)
    if not root.is_dir():
        raise RawDataError(f"{root}: no such folder; name the folder that holds the unpacked datasets")
    paths, left_out = walk(root)
    if not paths:
        raise RawDataError(f"{root}: the folder is empty; unpack a dataset into it: {known_titles()}")
    claimed = {name: files for name, files in claims(paths) if files}
    beside = walked_past(claimed, paths, left_out)
    found = [
        RawDataset(
            name,
            root / (os.path.commonpath([os.path.dirname(p) for p in files]) or "."),
            tuple(files),
            *notes_on_unread(dataset_named(name), beside[name]),
        )
        for name, files in claimed.items()
    ]
    if not found:
        raise RawDataError(
            f"{root}: no known dataset among {len(paths)} files ({'; '.join(counted_by_suffix(paths))}); looked for "
            + ", ".join(f"{d.title} ({d.example}, …)" for d in sorted(DATASETS, key=lambda d: d.title))
        )
    return found


def known_titles() -> str:
    return ", ".join(sorted(dataset.title for dataset in DATASETS))


def claims(paths: list[str]) -> list[tuple[str, list[str]]]:
    """Each dataset with its files, in name order. A file belongs to one."""
    left, found = paths, {}
    for dataset in DATASETS:
        found[dataset.name] = dataset.claim(left)
        taken = set(found[dataset.name])
        left = [path for path in left if path not in taken]
    return sorted(found.items())


def walked_past(claimed: dict[str, list[str]], paths: list[str], left_out: list[str]) -> dict[str, list[str]]:
    """Dataset -> the files that no reader takes and that lie nearest to its own.

    Of several that are as near, the one that reads files of that suffix, in any case; else the first.
    """
    folders = {name: {f for path in files for f in parents(path)} for name, files in claimed.items()}
    suffixes = {name: {suffix_of(path) for path in files} for name, files in claimed.items()}
    beside: dict[str, list[str]] = {name: [] for name in claimed}
    taken = {path for files in claimed.values() for path in files}
    for path in [*paths, *left_out] if claimed else ():
        if path in taken or path == MARKER:
            continue
        place = next(f for f in parents(path) if any(f in known for known in folders.values()))
        near = [name for name in sorted(claimed) if place in folders[name]]
        beside[next((name for name in near if suffix_of(path) in suffixes[name]), near[0])].append(path)
    return beside


def parents(path: str) -> list[str]:
    """The folders above a path, the nearest first, the root ("") last."""
    parts = path.rstrip("/").split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]


def suffix_of(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def notes_on_unread(dataset: Dataset, beside: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(notes, lines on what is not read) of the files beside a dataset's own."""
    needless = [p for p in beside if dataset.not_needed and dataset.not_needed.fullmatch(p)]
    notes: tuple[str, ...] = ()
    if needless:
        notes = (
            f"{dataset.name}: {len(needless)} files and folders of the release that nothing here needs "
            f"({'; '.join(counted_by_suffix(needless))})",
        )
    rest = set(needless)
    return notes, tuple(counted_by_suffix(path for path in beside if path not in rest))


def source_files(raw: RawDataset, root: Path) -> list[Path]:
    """Every file the reader depends on, texts and media, sorted."""
    return [Path(root) / path for path in raw.files]


def read_dataset(
    raw: RawDataset, root: Path, settings: DataSettings, digest: Callable[[Path], str]
) -> Dialogues:
    """Read one dataset: utterances sorted by key, each in train, dev or test.

    `digest(path)` gives the digest of a file's content; it is called once per media file that a returned
    utterance uses (not for members of archives, whose digests storage/archives knows). Every row is an utterance
    or a reject. Errors: RawDataError, LabelError (an unknown emotion).
    """
    root = Path(root)
    dataset = dataset_named(raw.dataset)
    check_sizes(raw, root, settings)
    result = without_endless_rows(dataset.read(raw, root, settings), settings)
    if settings.known_bad == "withdraw":
        result.utterances, withdrawn = withdraw(result.utterances, dataset.known_bad)
        result.defects += withdrawn
    if dataset.single_clips:
        result = without_silent_rows(result)
    if len(result.utterances) + len(result.rejects) != result.rows:
        raise AssertionError(
            f"{raw.dataset}: {result.rows} rows became {len(result.utterances)} utterances and "
            f"{len(result.rejects)} rejects"
        )
    notes = list(raw.notes) + result.notes
    result.defects += [Reject(raw.dataset, "", "", None, "not_read", line) for line in raw.not_read]
    official = {u.split for u in result.utterances}
    result, subset_notes = take_subset(raw.dataset, result, settings)
    splits, split_notes = assign_splits(dataset, result.utterances, official, settings)
    digests: dict[str, str] = {}
    utterances = []
    for u in result.utterances:
        split = splits.get((u.split, u.dialogue_id), u.split)
        media = media_digest(u, root, digest, digests)
        if split != u.split or media is not None:
            u = replace(u, split=split, media_digest=media)
        utterances.append(u)
    utterances, shared = part_clips(utterances, digests)
    # A dialogue of which nothing is left was never split; its rejects are filed under train.
    rejects, defects = (
        [replace(r, split=splits.get((r.split, r.dialogue_id), r.split or "train")) for r in lines]
        for lines in (result.rejects, result.defects)
    )
    return Dialogues(
        sorted(utterances, key=lambda u: u.key),
        sorted(rejects, key=reject_order),
        sorted(defects + shared, key=reject_order),
        notes + subset_notes + split_notes,
        len(utterances) + len(rejects),
    )


def index_archives(
    raw: RawDataset, root: Path, settings: DataSettings, progress: Callable[[int, int], None]
) -> int:
    """Pass over the archives that a dataset is read from, so that reading it finds them known; returns their megabytes.

    Gigabytes take minutes the first time. progress(megabytes read, of all).
    """
    archives = [path for path in raw.files if path.lower().endswith(ARCHIVE_SUFFIXES)]
    sizes = [os.path.getsize(root / path) for path in archives]
    whole, before = _megabytes(sum(sizes)), 0

    def report(read: int) -> None:
        progress(_megabytes(before + read), whole)

    for path, size in zip(archives, sizes, strict=True):
        report(0)
        list_members(root, path, settings.limits, report)
        before += size
        report(0)
    return whole


def _megabytes(size: int) -> int:
    return -(-size // (1 << 20))


def check_sizes(raw: RawDataset, root: Path, settings: DataSettings) -> None:
    """Texts are read whole. RawDataError: one is beyond `data.limits.text_mb`."""
    for path in raw.files:
        if suffix_of(path) in TEXT_SUFFIXES:
            size = os.path.getsize(root / path)
            if size > settings.limits.text_mb << 20:
                raise RawDataError(
                    f"{path}: {size / 2**20:.0f} MB of text; more than data.limits.text_mb="
                    f"{settings.limits.text_mb} is not read"
                )


def without_endless_rows(read: Dialogues, settings: DataSettings) -> Dialogues:
    most = settings.limits.text_chars
    gone = [u for u in read.utterances if max(len(u.text), len(u.speaker)) > most]
    rejects = [
        Reject(*u.key, reason="too_long", detail=f"more than data.limits.text_chars={most} characters")
        for u in gone
    ]
    kept = (
        [u for u in read.utterances if max(len(u.text), len(u.speaker)) <= most] if gone else read.utterances
    )
    return replace(read, utterances=kept, rejects=read.rejects + rejects)


def reject_order(reject: Reject) -> tuple:
    turn = -1 if reject.turn is None else reject.turn
    return (reject.split, reject.dialogue_id, turn, reject.reason, reject.detail)


def without_silent_rows(read: Dialogues) -> Dialogues:
    """Of datasets of single clips, a row that is left without media is of no use and rejected."""
    kept = [u for u in read.utterances if u.video_path or u.audio_path]
    gone = [
        Reject(*u.key, reason="no_media", detail="no clip that can be used")
        for u in read.utterances
        if not (u.video_path or u.audio_path)
    ]
    return replace(read, utterances=kept, rejects=read.rejects + gone)


def take_subset(dataset: str, read: Dialogues, settings: DataSettings) -> tuple[Dialogues, list[str]]:
    """The N dialogues of smallest seeded hash, with their rejects; rejects of no dialogue stay."""
    dialogues = {(u.split, u.dialogue_id) for u in read.utterances}
    count = settings.dialogues
    if count is None or count >= len(dialogues):
        return read, []
    kept = smallest_hashes(dialogues, count, settings.seed, dataset)

    def inside(reject: Reject) -> bool:
        return not reject.dialogue_id or (reject.split, reject.dialogue_id) in kept

    subset = Dialogues(
        [u for u in read.utterances if (u.split, u.dialogue_id) in kept],
        list(filter(inside, read.rejects)),
        list(filter(inside, read.defects)),
    )
    return subset, [f"{dataset}: {count} of {len(dialogues)} dialogues (data.dialogues={count})"]


# Splits ------------------------------------------------------------------------------------------------


def assign_splits(
    dataset: Dataset, utterances: list[Utterance], official: set[str], settings: DataSettings
) -> tuple[dict[tuple[str, str], str], list[str]]:
    """(official split, dialogue) -> split, for the dialogues that change theirs.

    A release without splits gives some of its parts to test. One without a dev split then gives
    `validation_share` of its train parts to dev. A release's own splits are kept.
    """
    name = dataset.name
    parts = {
        (u.split, u.dialogue_id): u.speaker if dataset.single_clips else u.dialogue_id for u in utterances
    }
    moved: dict[str, str] = {}
    notes: list[str] = []
    if "" in official:
        unsplit = {part for (split, _), part in parts.items() if split == ""}
        test = set() if "test" in official else dataset.test_parts(name, unsplit, settings)
        moved = {part: "test" if part in test else "train" for part in unsplit}
        notes.append(f"{name}: no official split; {len(test)} of {len(unsplit)} {dataset.unit} are test")
    if "dev" not in official:
        train = {part for (split, _), part in parts.items() if moved.get(part, split) == "train"}
        dev = hold_out(train, settings.validation_share, settings.seed, name, "dev")
        notes.append(f"{name}: no official dev; {len(dev)} of {len(train)} train {dataset.unit} are dev")
        moved |= dict.fromkeys(dev, "dev")
    splits = {
        (split, dialogue): moved[part]
        for (split, dialogue), part in parts.items()
        if split in ("", "train") and part in moved
    }
    present = {splits.get(key, key[0]) for key in parts}
    notes += [f"{name}: no {split} dialogue was read" for split in SPLITS if split not in present]
    return splits, notes


def part_clips(
    utterances: Sequence[Utterance], digests: dict[str, str]
) -> tuple[list[Utterance], list[Reject]]:
    """`part_shared_clips` by the very bytes of the clips' files.

    Files that hold a whole dialogue (IEMOCAP's avi) are left out: their dialogue is in one split.
    """

    def contents(u: Utterance) -> list[str]:
        files = {p for p in (u.video_path, u.audio_path) if p is not None and u.start is None}
        return [digests[p] for p in sorted(files)] if digests else []

    return part_shared_clips(
        utterances, contents, lambda owner: f"same as {'/'.join(map(str, owner.key[1:]))}"
    )


# Media -------------------------------------------------------------------------------------------------


def media_digest(
    utterance: Utterance, root: Path, digest: Callable[[Path], str], known: dict[str, str]
) -> str | None:
    """Digest of an utterance's media: contents of its files, span and side; None without media.

    Paths do not count, so a moved tree, and an archive unpacked, leave features fresh. `known` remembers files
    already digested.
    """
    if utterance.video_path is None and utterance.audio_path is None:
        return None
    contents = []
    for path in (utterance.video_path, utterance.audio_path):
        if path is not None and path not in known:
            if is_member(path):
                archive, _ = split_member(path)
                listing = list_members(root, archive)
                known.update({member_path(archive, name): value for name, value in listing.digests.items()})
            else:
                known[path] = digest(root / path)
        contents.append(None if path is None else known[path])
    identity = json.dumps([*contents, utterance.start, utterance.end, utterance.side])
    return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
