"""Reader of MELD: the three label files and the clip folders, wherever the user's tar left them.

Knows nothing of decoding: a broken clip is rejected by the stage that decodes it. Sources: the release's README and
issues; Poria et al., ACL 2019.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from storage.fetch.sources import FixedFiles, RemoteFile, Source
from storage.labels import EKMAN, LabelTable
from storage.readers.common import (
    Dialogues,
    RawDataError,
    RawDataset,
    choose_copy,
    choose_file,
    copies_note,
    fields_of,
    file_name,
    lines_of,
    read_text,
    whole_number,
)
from storage.readers.dataset import Dataset
from storage.readers.meld_known_bad import KNOWN_BAD
from storage.readers.published import Published
from storage.readers.shared_clips import part_shared_clips
from storage.settings import DataSettings
from storage.utterance import Reject, Utterance

DATASET = "meld"
LABELS = LabelTable(DATASET, EKMAN)
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
CLIP_NAME = re.compile(r"(final_videos_test)?dia([0-9]{1,9})_utt([0-9]{1,9})\.mp4")
PACKED = {f"{split}.tar.gz": split for split in ("train", "dev", "test")}
"""Archives inside the release's own; the train label file lies in the first."""
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
TIMES = ("Season", "Episode", "StartTime", "EndTime")
DYADIC = "Old_Dialogue_ID"
CLOCK = re.compile(r"([0-9]{1,2}):([0-5]?[0-9]):([0-5]?[0-9])[,.]([0-9]{3})")
MISREAD = re.compile("[\x80-\xa0]")

MOST_SHARING = 4
"""Most rows that may share one span of time; times shared by more are placeholders."""

Key = tuple[str, str, int]
"""Split, Dialogue_ID and Utterance_ID."""
Span = tuple[str, ...]
"""Season, episode, start and end of a clip as the label file spells them."""


@dataclass
class LabelFile:
    """The rows of one label file, normalised, and its rejects."""

    utterances: list[Utterance] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    spans: dict[Key, Span] = field(default_factory=dict)
    rows: int = 0


def claim(paths: list[str]) -> list[str]:
    """Of all files under a root, those of MELD; none where there is no label file.

    RawDataError: a clip that may be of any split, since ids restart in each; a split that is still packed.
    """
    labels = [p for p in paths if file_name(p) in LABEL_FILES]
    if not labels:
        return []
    clips = [p for p in paths if CLIP_NAME.fullmatch(file_name(p))]
    for path in clips:
        if not clip_split(path):
            raise RawDataError(
                f"{DATASET}: {path} may be of train, dev or test, whose ids all start at 0; "
                f"name its folder after the split: {', '.join(CLIP_FOLDERS)}"
            )
    unpacked = {clip_split(path) for path in clips}
    beside = {path.rpartition("/")[0] for path in labels}
    for path in paths:
        split = PACKED.get(file_name(path)) if path.rpartition("/")[0] in beside else None
        if split is not None and split not in unpacked:
            raise RawDataError(
                f"{DATASET}: {path} is still packed; unpack it in its folder (tar -xzf), or take it away to read "
                "text only"
            )
    return sorted(labels + clips)


def read(raw: RawDataset, root: Path, settings: DataSettings) -> Dialogues:
    """Utterances with their official split, keyed (split, Dialogue_ID, Utterance_ID), clips attached."""
    result = Dialogues()
    ignored: list[str] = []
    spans: dict[Key, Span] = {}
    clips, unused = index_clips(root, raw.files)
    for split in ("train", "dev", "test"):
        copies = [p for p in raw.files if LABEL_FILES.get(file_name(p)) == split]
        if not copies:
            result.notes.append(f"meld: no {split}_sent_emo.csv, so no {split} split")
            continue
        read_copy = partial(read_labels, root, split=split, settings=settings)
        labels, others = choose_copy(DATASET, copies, read_copy, normalised_rows)
        ignored += others
        spans |= labels.spans
        result.utterances += [with_clip(u, clips) for u in labels.utterances]
        result.rejects += labels.rejects
        result.rows += labels.rows
    result.defects += clips_without_row(clips, result)
    result.utterances, shared = without_shared_clips(result.utterances, spans)
    result.defects += shared
    result.notes += copies_note(DATASET, ignored) + clip_notes(result.utterances, clips, unused)
    result.notes += time_notes(result.utterances)
    return result


def read_labels(root: Path, relative: str, split: str, settings: DataSettings) -> LabelFile:
    """Parse one label file. RawDataError where columns are missing, LabelError on an unknown emotion.

    The files of 2018 hold cp1252 characters as C1 controls in valid UTF-8; both encodings give equal text.
    No field of the release holds a line end, so each line is a row by itself: a quote left open costs its own
    row and not the file.
    """
    lines = lines_of(clean(read_text(root, relative)))
    header = tuple(name.strip() for name in fields_of(lines[0]))
    check_header(header, relative)
    result = LabelFile()
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        result.rows += 1
        where = f"{relative} line {number}"
        read_row(line, header, split, where, result, settings)
    if result.rows and not result.utterances:
        first = result.rejects[0]
        raise RawDataError(
            f"{relative}: none of {result.rows} rows can be used ({first.reason}: {first.detail[:120]}); "
            "unpack the release again"
        )
    return result


def check_header(header: tuple[str, ...], relative: str) -> None:
    if DYADIC in header:
        raise RawDataError(
            f"{relative}: MELD's dyadic variant, which repeats utterances over dialogues; put the plain label "
            "file in its place"
        )
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise RawDataError(
            f"{relative}: columns missing: {', '.join(missing)}; found: {', '.join(header)[:200] or 'nothing'}; "
            "this is no MELD label file, unpack the release again"
        )


def read_row(
    line: str, header: tuple[str, ...], split: str, where: str, result: LabelFile, settings: DataSettings
) -> None:
    """One line -> an utterance or a reject of `result`."""
    fields = fields_of(line)
    try:
        if len(fields) != len(header):
            raise ValueError
        row = dict(zip(header, fields, strict=True))
        dialogue, turn = str(whole_number(row["Dialogue_ID"])), whole_number(row["Utterance_ID"])
    except ValueError:
        result.rejects.append(Reject(DATASET, split, "", None, "bad_row", f"{where}: {line[:120]}"))
        return
    text, key = row["Utterance"], (split, dialogue, turn)
    reason = "duplicate" if key in result.spans else "" if text else "empty_text"
    if reason:
        result.rejects.append(Reject(DATASET, split, dialogue, turn, reason, where))
        return
    emotion = row["Emotion"]
    result.spans[key] = tuple(row.get(name, "") for name in TIMES)
    result.utterances.append(
        Utterance(
            DATASET,
            split,
            dialogue,
            turn,
            row["Speaker"],
            text,
            LABELS.target(emotion, where, settings.labels),
            emotion,
            seconds=stated_seconds(*result.spans[key][2:]),
        )
    )


def stated_seconds(start: str, end: str) -> float | None:
    """EndTime - StartTime in seconds, to the millisecond (times of the episode, "H:MM:SS,mmm"); None: unreadable."""
    begin, finish = (CLOCK.fullmatch(time) for time in (start, end))
    if begin is None or finish is None:
        return None
    spent = milliseconds(finish) - milliseconds(begin)
    return spent / 1000 if spent >= 0 else None


def milliseconds(clock: re.Match) -> int:
    hours, minutes, seconds, thousandths = map(int, clock.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + thousandths


def clean(text: str) -> str:
    """C1 controls back to the cp1252 characters they stand for; the no-break space becomes a space."""
    return MISREAD.sub(
        lambda m: " " if m[0] == "\xa0" else m[0].encode("latin-1").decode("cp1252", errors="replace"), text
    )


def normalised_rows(labels: LabelFile) -> list[tuple]:
    rows = [(u.dialogue_id, u.turn, u.speaker, u.text, u.emotion_raw) for u in labels.utterances]
    return sorted(rows) + sorted((r.dialogue_id, r.turn or -1, r.reason) for r in labels.rejects)


def index_clips(root: Path, paths: tuple[str, ...]) -> tuple[dict[Key, str], int]:
    """Clip of each (split, dialogue, turn), and how many further files show the same one.

    Ids restart in every split, so the split comes from the folder. The test folder's `final_videos_test`
    files are the corrected cuts and win over the plain name; of equal names the shallowest wins.
    """
    found: dict[Key, dict[bool, list[str]]] = {}
    for path in paths:
        if match := CLIP_NAME.fullmatch(file_name(path)):
            key = (clip_split(path), str(int(match[2])), int(match[3]))
            found.setdefault(key, {}).setdefault(bool(match[1]), []).append(path)
    clips, unused = {}, 0
    for key, cuts in found.items():
        clips[key], others = choose_file(root, f"{DATASET}: clip {clip_name(key)}", cuts[max(cuts)])
        unused += len(others) + (len(cuts[False]) if len(cuts) == 2 else 0)
    return clips, unused


def clip_split(path: str) -> str:
    """Split of a clip by its nearest folder with a known name, or its own; empty where there is none."""
    *folders, name = path.split("/")
    for folder in reversed(folders):
        if folder in CLIP_FOLDERS:
            return CLIP_FOLDERS[folder]
    return "test" if name.startswith("final_videos_test") else ""


def clip_name(key: Key) -> str:
    return f"{key[0]} dia{key[1]}_utt{key[2]}"


def with_clip(utterance: Utterance, clips: dict[Key, str]) -> Utterance:
    """A MELD clip is cut to its utterance, so one file serves as video and as audio."""
    clip = clips.get(utterance.key[1:])
    return utterance if clip is None else replace(utterance, video_path=clip, audio_path=clip)


def clips_without_row(clips: dict[Key, str], read: Dialogues) -> list[Reject]:
    """Clips that no row of their split's label file names; of a split without label file a note tells."""
    rows = {u.key[1:] for u in read.utterances} | {(r.split, r.dialogue_id, r.turn) for r in read.rejects}
    splits = {u.split for u in read.utterances}
    return [
        Reject(DATASET, *key, reason="clip_without_row", detail=path)
        for key, path in sorted(clips.items())
        if key not in rows and key[0] in splits
    ]


def without_shared_clips(
    utterances: list[Utterance], spans: dict[Key, Span]
) -> tuple[list[Utterance], list[Reject]]:
    """`part_shared_clips` by the seconds of the episode: rows that name the same have one clip between them."""
    counts = Counter(spans.values())

    def seconds(u: Utterance) -> list[Span]:
        span = spans[u.key[1:]] if u.video_path else ()
        return [span] if span and counts[span] <= MOST_SHARING and all(span) else []

    return part_shared_clips(
        utterances, seconds, lambda owner: f"the same seconds of the episode as {clip_name(owner.key[1:])}"
    )


def clip_notes(utterances: list[Utterance], clips: dict[Key, str], unused: int) -> list[str]:
    if not clips:
        return ["meld: no clips, text only"]
    notes = []
    without = [u for u in utterances if u.video_path is None]
    if without:
        names = ", ".join(clip_name(u.key[1:]) for u in without[:5])
        more = ", …" if len(without) > 5 else ""
        notes.append(f"meld: {len(without)} utterances without a clip, kept as text ({names}{more})")
    unlabelled = len(clips.keys() - {u.key[1:] for u in utterances})
    if unlabelled:
        notes.append(f"meld: {unlabelled} clips without a row, not used")
    if unused:
        notes.append(f"meld: {unused} further files of clips already found, not used")
    return notes


def time_notes(utterances: list[Utterance]) -> list[str]:
    unread = sum(u.seconds is None for u in utterances)
    if not unread:
        return []
    return [f"meld: {unread} utterances without a length: StartTime or EndTime is missing or out of order"]


def published(split: str, dialogues: int, utterances: int, *labels: int) -> Published:
    """labels: of each spelling in alphabetical order."""
    return Published(split, (split,), utterances, dialogues, dict(zip(sorted(EKMAN), labels, strict=True)))


ENTRY = Dataset(
    DATASET,
    "MELD",
    "train_sent_emo.csv",
    claim,
    read,
    LABELS,
    source=Source(
        "MELD (Poria et al., ACL 2019)",
        "GPL-3.0",
        "https://github.com/declare-lab/MELD/blob/master/LICENSE",
        (
            FixedFiles(
                (
                    RemoteFile(
                        "MELD.Raw.tar.gz", "http://web.eecs.umich.edu/~mihalcea/downloads/MELD.Raw.tar.gz"
                    ),
                )
            ),
        ),
        "unpack it, then the three archives inside: tar -xzf MELD.Raw.tar.gz && cd MELD.Raw && "
        "for a in train dev test; do tar -xzf $a.tar.gz; done",
    ),
    known_bad=KNOWN_BAD,
    not_needed=re.compile(r"(?:.*/)?(?:README[^/]*|LICENSE|MELD\.Raw\.tar\.gz|(?:train|dev|test)\.tar\.gz)"),
    published=(
        published("train", 1039, 9989, 1109, 271, 268, 1743, 4710, 683, 1205),
        published("dev", 114, 1109, 153, 22, 40, 163, 470, 111, 150),
        published("test", 280, 2610, 345, 68, 50, 402, 1256, 208, 281),
    ),
)
