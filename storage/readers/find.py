"""Find the datasets under a raw root, and read one: the readers' common front.

Knows the list of readers, subsets, splits and media digests; nothing of any layout, nor of Parquet.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from storage.readers import iemocap, meld, multidialog
from storage.readers.common import Dialogues, RawDataError, RawDataset, hold_out, smallest_hashes, walk
from storage.settings import DataSettings
from storage.utterance import SPLITS, Utterance

__all__ = ["Dialogues", "RawDataError", "RawDataset", "find_datasets", "read_dataset", "source_files"]


def find_datasets(root: Path) -> list[RawDataset]:
    """The known datasets below `root`, told by folder and file names alone (no file is opened).

    RawDataError: the root is missing or empty, holds no known layout, or holds audio still packed.
    """
    root = Path(root)
    if not root.is_dir():
        raise RawDataError(f"{root}: no such folder; name the folder that holds the unpacked datasets")
    paths = walk(root)
    if not paths:
        raise RawDataError(f"{root}: the folder is empty; unpack MELD, MultiDialog or IEMOCAP into it")
    claims = (
        (iemocap.DATASET, iemocap.claim(paths)),
        (meld.DATASET, meld.claim(paths)),
        (multidialog.DATASET, multidialog.claim(paths)),
    )
    found = [
        RawDataset(
            name, root / (os.path.commonpath([os.path.dirname(p) for p in files]) or "."), tuple(files)
        )
        for name, files in claims
        if files
    ]
    if not found:
        raise RawDataError(
            f"{root}: no known dataset among {len(paths)} files; looked for MELD (train_sent_emo.csv, …), "
            "MultiDialog (metadata/train/*.jsonl, …) and IEMOCAP (Session1/dialog/transcriptions, …)"
        )
    return found


def source_files(raw: RawDataset, root: Path) -> list[Path]:
    """Every file the reader depends on, texts and media, sorted."""
    return [Path(root) / path for path in raw.files]


def read_dataset(
    raw: RawDataset, root: Path, settings: DataSettings, digest: Callable[[Path], str]
) -> Dialogues:
    """Read one dataset: utterances sorted by key, each in train, dev or test.

    `digest(path)` gives the digest of a file's content; it is called once per media file that a returned
    utterance uses. Errors: RawDataError, LabelError (an unknown emotion).
    """
    root = Path(root)
    if raw.dataset == iemocap.DATASET:
        result = iemocap.read(raw, root, settings)
    elif raw.dataset == meld.DATASET:
        result = meld.read(raw, root, settings)
    elif raw.dataset == multidialog.DATASET:
        result = multidialog.read(raw, root, settings)
    else:
        raise RawDataError(f"no reader for dataset {raw.dataset!r}")
    notes = list(raw.notes) + result.notes
    official = {u.split for u in result.utterances}
    result, subset_notes = take_subset(raw.dataset, result, settings)
    splits, split_notes = assign_splits(raw.dataset, result.utterances, official, settings)
    digests: dict[str, str] = {}
    utterances = []
    for u in result.utterances:
        split = splits.get((u.split, u.dialogue_id), u.split)
        media = media_digest(u, root, digest, digests)
        if split != u.split or media is not None:
            u = replace(u, split=split, media_digest=media)
        utterances.append(u)
    # A dialogue of which nothing is left was never split; its rejects are filed under train.
    rejects = [
        replace(r, split=splits.get((r.split, r.dialogue_id), r.split or "train")) for r in result.rejects
    ]
    return Dialogues(
        sorted(utterances, key=lambda u: u.key),
        sorted(rejects, key=lambda r: (r.split, r.dialogue_id, -1 if r.turn is None else r.turn, r.detail)),
        notes + subset_notes + split_notes,
    )


def take_subset(dataset: str, read: Dialogues, settings: DataSettings) -> tuple[Dialogues, list[str]]:
    """The N dialogues of smallest seeded hash, with their rejects; rejects of no dialogue stay."""
    dialogues = {(u.split, u.dialogue_id) for u in read.utterances}
    count = settings.dialogues
    if count is None or count >= len(dialogues):
        return read, []
    kept = smallest_hashes(dialogues, count, settings.seed, dataset)
    subset = Dialogues(
        [u for u in read.utterances if (u.split, u.dialogue_id) in kept],
        [r for r in read.rejects if not r.dialogue_id or (r.split, r.dialogue_id) in kept],
    )
    return subset, [f"{dataset}: {count} of {len(dialogues)} dialogues (data.dialogues={count})"]


def assign_splits(
    dataset: str, utterances: list[Utterance], official: set[str], settings: DataSettings
) -> tuple[dict[tuple[str, str], str], list[str]]:
    """(official split, dialogue) -> split, for the dialogues that change theirs.

    A release without splits gives up `iemocap_test_share` of its dialogues to test; one without a dev split
    then gives `validation_share` of its train dialogues to dev. A release's own splits are kept.
    """
    moved: dict[tuple[str, str], str] = {}
    notes: list[str] = []
    if "" in official:
        unsplit = {u.dialogue_id for u in utterances if u.split == ""}
        test = hold_out(unsplit, settings.iemocap_test_share, settings.seed, dataset, "test")
        moved = {("", d): "test" if d in test else "train" for d in unsplit}
        notes.append(f"{dataset}: no official split; {len(test)} of {len(unsplit)} dialogues are test")
    if "dev" not in official:
        train = {
            u.dialogue_id: u.split
            for u in utterances
            if moved.get((u.split, u.dialogue_id), u.split) == "train"
        }
        dev = hold_out(train.keys(), settings.validation_share, settings.seed, dataset, "dev")
        moved |= {(train[d], d): "dev" for d in dev}
        notes.append(f"{dataset}: no official dev; {len(dev)} of {len(train)} train dialogues are dev")
    present = {moved.get((u.split, u.dialogue_id), u.split) for u in utterances}
    notes += [f"{dataset}: no {split} dialogue was read" for split in SPLITS if split not in present]
    return moved, notes


def media_digest(
    utterance: Utterance, root: Path, digest: Callable[[Path], str], known: dict[str, str]
) -> str | None:
    """Digest of an utterance's media: contents of its files, span and side; None without media.

    Paths do not count, so a moved tree leaves features fresh. `known` remembers files already digested.
    """
    if utterance.video_path is None and utterance.audio_path is None:
        return None
    contents = []
    for path in (utterance.video_path, utterance.audio_path):
        if path is not None and path not in known:
            known[path] = digest(root / path)
        contents.append(None if path is None else known[path])
    identity = json.dumps([*contents, utterance.start, utterance.end, utterance.side])
    return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
