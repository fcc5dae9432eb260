"""Reader of MELD: the three label files and the clip folders, wherever the user's tar left them.

Knows nothing of decoding: a clip that is there but broken is turned away by whoever decodes it.
Sources: the release's README and issues; Poria et al., ACL 2019.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from storage.labels import target_emotion
from storage.readers.common import (
    Dialogues,
    RawDataError,
    RawDataset,
    by_depth,
    choose_copy,
    copies_note,
    read_text,
)
from storage.settings import DataSettings
from storage.utterance import Reject, Utterance

DATASET = "meld"
LABEL_FILES = {
    "train_sent_emo.csv": "train",
    "dev_sent_emo.csv": "dev",
    "test_sent_emo.csv": "test",
}
CLIP_FOLDERS = {
    "train_splits": "train",
    "train": "train",
    "dev_splits_complete": "dev",
    "dev_splits": "dev",
    "dev": "dev",
    "output_repeated_splits_test": "test",
    "test_splits": "test",
    "test": "test",
}
CLIP_NAME = re.compile(r"(final_videos_test)?dia(\d+)_utt(\d+)\.mp4")
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")


MISREAD = re.compile("[\x80-\xa0]")


@dataclass
class LabelFile:
    """The rows of one label file, normalised, and those that are no rows."""

    utterances: list[Utterance] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def claim(paths: list[str]) -> list[str]:
    """Of all files under a root, those of MELD; none where there is no label file."""
    labels = [p for p in paths if file_name(p) in LABEL_FILES]
    if not labels:
        return []
    return sorted(labels + [p for p in paths if CLIP_NAME.fullmatch(file_name(p)) and clip_split(p)])


def read(raw: RawDataset, root: Path, settings: DataSettings) -> Dialogues:
    """Utterances with their official split, keyed (split, Dialogue_ID, Utterance_ID), clips attached."""
    result = Dialogues()
    ignored: list[str] = []
    clips, spare = index_clips(raw.files)
    for split in ("train", "dev", "test"):
        copies = [p for p in raw.files if LABEL_FILES.get(file_name(p)) == split]
        if not copies:
            result.notes.append(f"meld: no {split}_sent_emo.csv, so no {split} split")
            continue
        labels, others = choose_copy(
            DATASET, copies, lambda p, s=split: read_labels(root, p, s, settings), normalised_rows
        )
        ignored += others
        result.utterances += [with_clip(u, clips) for u in labels.utterances]
        result.rejects += labels.rejects
    result.notes += copies_note(DATASET, ignored) + clip_notes(result.utterances, clips, spare)
    return result


def read_labels(root: Path, relative: str, split: str, settings: DataSettings) -> LabelFile:
    """Parse one label file. RawDataError where columns are missing, LabelError on an unknown emotion.

    The files of 2018 hold cp1252 characters as C1 controls in valid UTF-8; both encodings give equal text.
    """
    reader = csv.reader(io.StringIO(clean(read_text(root, relative)), newline=""))
    header = [name.strip() for name in next(reader, [])]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise RawDataError(
            f"{relative}: columns missing: {', '.join(missing)}; found: {', '.join(header) or 'nothing'}; "
            "this is no MELD label file, unpack the release again"
        )
    places = [header.index(name) for name in COLUMNS]
    result = LabelFile()
    seen: set[tuple[str, int]] = set()
    for row in reader:
        if not row:
            continue
        where = f"{relative} line {reader.line_num}"
        try:
            text, speaker, emotion, dialogue, turn = (row[place].strip() for place in places)
            dialogue, turn = str(int(dialogue)), int(turn)
        except (IndexError, ValueError):
            result.rejects.append(Reject(DATASET, split, "", None, "bad_row", f"{where}: {row}"))
            continue
        reason = "duplicate" if (dialogue, turn) in seen else "" if text else "empty_text"
        if reason:
            result.rejects.append(Reject(DATASET, split, dialogue, turn, reason, where))
            continue
        seen.add((dialogue, turn))
        target = target_emotion(DATASET, emotion, where, settings.labels)
        result.utterances.append(Utterance(DATASET, split, dialogue, turn, speaker, text, target, emotion))
    return result


def clean(text: str) -> str:
    """C1 controls back to the cp1252 characters they stand for; the no-break space becomes a space."""
    return MISREAD.sub(
        lambda m: " " if m[0] == "\xa0" else m[0].encode("latin-1").decode("cp1252", errors="replace"), text
    )


def normalised_rows(labels: LabelFile) -> list[tuple]:
    rows = [(u.dialogue_id, u.turn, u.speaker, u.text, u.emotion_raw) for u in labels.utterances]
    return sorted(rows) + sorted((r.dialogue_id, r.turn or -1, r.reason) for r in labels.rejects)


def index_clips(paths: tuple[str, ...]) -> tuple[dict[tuple[str, str, int], str], int]:
    """Clip of each (split, dialogue, turn), and how many further files show the same one.

    Ids restart in every split, so the split comes from the folder. The test folder's `final_videos_test`
    files are the corrected cuts and win over the plain name; of equal names the shallowest wins.
    """
    clips: dict[tuple[str, str, int], str] = {}
    corrected: set[tuple[str, str, int]] = set()
    spare = 0
    for path in by_depth(paths):
        match = CLIP_NAME.fullmatch(file_name(path))
        if not match:
            continue
        key = (clip_split(path), str(int(match[2])), int(match[3]))
        better = bool(match[1]) and key not in corrected
        spare += key in clips
        if key not in clips or better:
            clips[key] = path
        if match[1]:
            corrected.add(key)
    return clips, spare


def clip_split(path: str) -> str:
    """Split of a clip by its nearest folder with a known name; empty where there is none."""
    for folder in reversed(path.split("/")[:-1]):
        if folder in CLIP_FOLDERS:
            return CLIP_FOLDERS[folder]
    return ""


def with_clip(utterance: Utterance, clips: dict[tuple[str, str, int], str]) -> Utterance:
    """A MELD clip is cut to its utterance, so one file serves as video and as audio."""
    clip = clips.get((utterance.split, utterance.dialogue_id, utterance.turn))
    if clip is None:
        return utterance
    u = utterance
    return Utterance(
        u.dataset, u.split, u.dialogue_id, u.turn, u.speaker, u.text, u.emotion, u.emotion_raw, clip, clip
    )


def clip_notes(utterances: list[Utterance], clips: dict, spare: int) -> list[str]:
    if not clips:
        return ["meld: no clips, text only"]
    notes = []
    without = [u for u in utterances if u.video_path is None]
    if without:
        names = ", ".join(f"{u.split} dia{u.dialogue_id}_utt{u.turn}" for u in without[:5])
        more = ", …" if len(without) > 5 else ""
        notes.append(f"meld: {len(without)} utterances without a clip, kept as text ({names}{more})")
    unlabelled = len(clips) - (len(utterances) - len(without))
    if unlabelled:
        notes.append(f"meld: {unlabelled} clips without a row, not used")
    if spare:
        notes.append(f"meld: {spare} further files of clips already found, not used")
    return notes


def file_name(path: str) -> str:
    return path.rpartition("/")[2]
