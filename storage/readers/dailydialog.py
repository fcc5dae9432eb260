"""Reader of DailyDialog: a dialogue a line, its turns ended by __eou__, their emotions in a file beside it.

The release holds all dialogues in one file and, packed, the same in three splits: the splits are read where they
are unpacked. Two people speak in turns; the files do not name them. Knows nothing of media: there are none.
Source: the release's readme; Li et al., IJCNLP 2017.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from storage.fetch.sources import FixedFiles, RemoteFile, Source
from storage.labels import LabelTable
from storage.readers.common import (
    Dialogues,
    RawDataError,
    RawDataset,
    file_name,
    lines_of,
    one_line,
    read_splits,
    read_text,
    without_repeated_dialogues,
)
from storage.readers.dataset import Dataset, share_of_dialogues
from storage.readers.published import Published
from storage.settings import DataSettings
from storage.utterance import Reject, Utterance

DATASET = "dailydialog"
SPLIT_FILES = {
    "dialogues_train.txt": "train",
    "dialogues_validation.txt": "dev",
    "dialogues_test.txt": "test",
}
WHOLE_FILE = "dialogues_text.txt"
EMOTION_FILES = {
    "dialogues_train.txt": "dialogues_emotion_train.txt",
    "dialogues_validation.txt": "dialogues_emotion_validation.txt",
    "dialogues_test.txt": "dialogues_emotion_test.txt",
    WHOLE_FILE: "dialogues_emotion.txt",
}
PACKED = ("train.zip", "validation.zip", "test.zip")
END_OF_TURN = "__eou__"
SPEAKERS = ("A", "B")
# 0 is "no emotion", which most turns have; data.labels.map={"dailydialog/0": null} leaves it without a target.
LABELS = LabelTable(
    DATASET,
    {
        "0": "neutral",
        "1": "angry",
        "2": "disgust",
        "3": "fearful",
        "4": "happy",
        "5": "sad",
        "6": "surprise",
    },
)


def claim(paths: list[str]) -> list[str]:
    """Of all files under a root, those of DailyDialog. RawDataError: the splits are still packed."""
    texts = [p for p in paths if file_name(p) in EMOTION_FILES]
    if not texts:
        return []
    if all(file_name(p) == WHOLE_FILE for p in texts):
        beside = {p.rpartition("/")[0] for p in texts}
        for path in paths:
            if file_name(path) in PACKED and path.rpartition("/")[0] in beside:
                raise RawDataError(
                    f"{DATASET}: {path} is still packed; unzip the three in their folder, or take them away to have "
                    "the dialogues split by a seeded hash"
                )
    return sorted([*texts, *(p for p in paths if file_name(p) in EMOTION_FILES.values())])


def read(raw: RawDataset, root: Path, settings: DataSettings) -> Dialogues:
    """Utterances with their official split, or none; dialogue_id the number of the line, turn the place in it.

    A dialogue that stands word for word in a split that is tested on is taken out of the others.
    """
    names = {file_name(p) for p in raw.files}
    wanted = {n: s for n, s in SPLIT_FILES.items() if n in names} or {WHOLE_FILE: ""}
    read_file = partial(read_part, root, files=raw.files, settings=settings)
    result = read_splits(DATASET, wanted, raw.files, read_file)
    result = without_repeated_dialogues(result, key=lambda said: tuple(u.text.casefold() for u in said))
    if WHOLE_FILE in names and WHOLE_FILE not in wanted:
        result.notes.insert(0, f"{DATASET}: {WHOLE_FILE} not read: the splits hold the same dialogues")
    if not any(u.emotion_raw for u in result.utterances):
        result.notes.append(f"{DATASET}: no file of emotions, so no labels")
    return result


def read_part(root: Path, path: str, split: str, files: tuple[str, ...], settings: DataSettings) -> Dialogues:
    """One file of dialogues with its file of emotions. LabelError: a number that is no emotion."""
    folder, _, name = path.rpartition("/")
    emotions_path = f"{folder}/{EMOTION_FILES[name]}" if folder else EMOTION_FILES[name]
    labels: list[str] | None = None
    if emotions_path in files:
        labels = without_blank_end(lines_of(read_text(root, emotions_path)))
    result = Dialogues()
    lines = without_blank_end(lines_of(read_text(root, path)))
    for number, line in enumerate(lines, start=1):
        labelled = None if labels is None else labels[number - 1].split() if number <= len(labels) else []
        read_dialogue(line, labelled, split, number, path, emotions_path, result, settings)
    if labels is not None and len(labels) > len(lines):
        detail = f"{emotions_path}: {len(labels) - len(lines)} lines more than dialogues"
        result.defects.append(Reject(DATASET, split, "", None, "label_without_text", detail))
    return result


def read_dialogue(
    line: str,
    labels: list[str] | None,
    split: str,
    number: int,
    path: str,
    emotions_path: str,
    result: Dialogues,
    settings: DataSettings,
) -> None:
    """One line -> the turns of a dialogue, or rejects. Labels that are more or fewer than turns are none."""
    turns = [one_line(turn) for turn in line.split(END_OF_TURN)]
    if not turns[-1]:
        turns.pop()  # what follows the last mark
    where, dialogue = f"{path} line {number}", str(number)
    if not turns:
        result.rejects.append(Reject(DATASET, split, dialogue, None, "empty_dialogue", where))
        return
    if labels is not None and len(labels) != len(turns):
        detail = f"{emotions_path} line {number}: {len(labels)} labels for {len(turns)} turns, none is taken"
        result.defects.append(Reject(DATASET, split, dialogue, None, "labels_do_not_fit", detail))
        labels = None
    for turn, text in enumerate(turns):
        if not text:
            result.rejects.append(Reject(DATASET, split, dialogue, turn, "empty_text", where))
            continue
        label = None if labels is None else labels[turn]
        emotion = (
            None if label is None else LABELS.target(label, f"{emotions_path} line {number}", settings.labels)
        )
        result.utterances.append(
            Utterance(DATASET, split, dialogue, turn, SPEAKERS[turn % 2], text, emotion, label)
        )


def without_blank_end(lines: list[str]) -> list[str]:
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


ENTRY = Dataset(
    DATASET,
    "DailyDialog",
    "dialogues_train.txt",
    claim,
    read,
    LABELS,
    test_parts=share_of_dialogues,
    source=Source(
        "DailyDialog (Li et al., IJCNLP 2017)",
        "CC BY-NC-SA 4.0",
        "https://creativecommons.org/licenses/by-nc-sa/4.0/",
        (
            FixedFiles(
                (RemoteFile("ijcnlp_dailydialog.zip", "http://yanran.li/files/ijcnlp_dailydialog.zip"),),
            ),
        ),
        "unzip it, then the three archives inside: unzip ijcnlp_dailydialog.zip && cd ijcnlp_dailydialog && "
        "for s in train validation test; do unzip $s.zip; done",
    ),
    published=(
        Published("train", ("train",), 87_170, 11_118),
        Published("validation", ("dev",), 8069, 1000),
        Published("test", ("test",), 7740, 1000),
    ),
    not_needed=re.compile(
        r"(?:.*/)?(?:readme[^/]*|dialogues_(?:act|topic)[^/]*\.txt|(?:train|validation|test|ijcnlp_dailydialog)\.zip|"
        r"parser\.py)",
        re.IGNORECASE,
    ),
)
