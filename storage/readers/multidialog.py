"""Reader of MultiDialog: metadata lines per split, one wav per utterance, and videos where the user has them.

The lines are read in multidialog_metadata.py; sounds and videos are found in multidialog_media.py, the sounds in the
release's archives too, where those still lie packed (storage/archives). Knows nothing of
decoding. Of the five official splits it reads train and test_freq (paper, section 4.1).
Source: the release's data card and loader; Park et al., ACL 2024.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from storage.fetch.sources import HubFolders, Source
from storage.labels import LabelTable
from storage.readers.common import (
    Dialogues,
    RawDataError,
    RawDataset,
    choose_copy,
    copies_note,
)
from storage.readers.dataset import Dataset
from storage.readers.multidialog_media import (
    WAV_STEM,
    Media,
    archive_split,
    index_media,
    is_video,
    left_out,
    wav_of,
)
from storage.readers.multidialog_metadata import (
    DATASET,
    LEFT_OUT,
    SPLITS,
    Metadata,
    Turn,
    metadata_folders,
    metadata_split,
    normalised_rows,
    read_folder,
    stem,
)
from storage.readers.published import Published
from storage.settings import DataSettings
from storage.utterance import Reject, Utterance

LABELS = LabelTable(
    DATASET,
    {
        "angry": "angry",
        "disgusting": "disgust",
        "fear": "fearful",
        "happy": "happy",
        "neutral": "neutral",
        "sad": "sad",
        "surprising": "surprise",
    },
)
MOST_NOTES = 5


def claim(paths: list[str]) -> list[str]:
    """Of all files under a root, those of MultiDialog; none where there are none.

    RawDataError where there is audio of MultiDialog and nothing that says which split it belongs to.
    """
    metadata = [p for p in paths if metadata_split(p)]
    wavs = [p for p in paths if p.endswith(".wav") and WAV_STEM.fullmatch(stem(p)) and not left_out(p)]
    archives = [p for p in paths if archive_split(p) in SPLITS]
    if not metadata:
        if wavs or archives:
            raise RawDataError(
                f"{DATASET}: {(archives or wavs)[0]} is audio of MultiDialog, but there is no "
                "metadata/SPLIT/SPLIT_metadata_0000.jsonl; the combined metadata.jsonl names no splits, "
                "download the folder metadata"
            )
        return []
    return sorted({*metadata, *wavs, *archives, *(p for p in paths if is_video(p) and not left_out(p))})


def read(raw: RawDataset, root: Path, settings: DataSettings) -> Dialogues:
    """Utterances of train and test_freq (as test), turn = utterance_id with its gaps kept."""
    result = Dialogues()
    ignored: list[str] = []
    found: dict[str, Metadata] = {}
    for official, split in SPLITS.items():
        folders = metadata_folders(raw.files, official)
        if not folders:
            result.notes.append(f"{DATASET}: no metadata of {official}")
            continue
        read_copy = partial(read_folder, root, folders=folders, split=split)
        found[split], others = choose_copy(DATASET, folders, read_copy, normalised_rows)
        ignored += others
    part_splits(found)
    media = index_media(root, raw.files, settings)
    for split, metadata in found.items():
        result.rows += metadata.rows
        result.utterances += build_utterances(metadata, split, media, settings)
        result.rejects += metadata.rejects
    result.defects += media.defects
    result.notes += copies_note(DATASET, ignored)
    result.notes += left_out_notes(raw, root) + media_notes(media, result.utterances)
    return result


def part_splits(found: dict[str, Metadata]) -> None:
    """A conversation of the test split is taken out of train, where it lies too, and its rows are rejected."""
    train, test = found.get("train"), found.get("test")
    if train is None or test is None:
        return
    tested = {turn.conversation for turn in test.turns}
    twice = [turn for turn in train.turns if turn.conversation in tested]
    train.rejects += [
        Reject(DATASET, "train", t.conversation, t.turn, "dialogue_in_two_splits", t.where) for t in twice
    ]
    train.turns = [turn for turn in train.turns if turn.conversation not in tested]


# Utterances --------------------------------------------------------------------------------------------


def build_utterances(metadata: Metadata, split: str, media: Media, settings: DataSettings) -> list[Utterance]:
    conversations: dict[str, list[Turn]] = {}
    for turn in metadata.turns:
        conversations.setdefault(turn.conversation, []).append(turn)
    result = []
    for conversation in sorted(conversations):
        turns = sorted(conversations[conversation], key=lambda t: t.turn)
        wavs = [wav_of(turn, media) for turn in turns]
        for turn, speaker, wav in zip(turns, speakers(turns, wavs), wavs, strict=True):
            video = media.videos.get((conversation, turn.turn))
            emotion = LABELS.target(turn.emotion, turn.where, settings.labels)
            result.append(
                Utterance(
                    DATASET,
                    split,
                    conversation,
                    turn.turn,
                    speaker,
                    turn.text,
                    emotion,
                    turn.emotion.strip(),
                    video_path=video,
                    audio_path=wav or video,
                )  # fmt: skip
            )
    return result


def speakers(turns: list[Turn], wavs: Iterable[str | None]) -> list[str]:
    """Who speaks: the actor's letter of the wav name, where every turn of the conversation has one.

    `from` is a role for language models ("gpt" opens); both sides are people. It stands in for a
    conversation whose letters are not all known, so that one person never has two names.
    """
    letters = [t.letter or (stem(wav)[-1] if wav else "") for t, wav in zip(turns, wavs, strict=True)]
    if all(letters):
        return letters
    return [turn.role or letter for turn, letter in zip(turns, letters, strict=True)]


# Notes -------------------------------------------------------------------------------------------------


def left_out_notes(raw: RawDataset, root: Path) -> list[str]:
    notes = []
    for official in LEFT_OUT:
        files = [p for p in raw.files if metadata_split(p) == official]
        rows = sum(bool(line.strip()) for p in files for line in (root / p).read_bytes().split(b"\n"))
        if files:
            notes.append(f"{DATASET}: {official} left out ({rows} rows): test_freq alone is the test split")
    return notes


def media_notes(media: Media, utterances: list[Utterance]) -> list[str]:
    notes = []
    for kind, missing, some in (
        ("audio", sum(u.audio_path is None for u in utterances), any(u.audio_path for u in utterances)),
        ("video", sum(u.video_path is None for u in utterances), any(u.video_path for u in utterances)),
    ):
        if not some:
            notes.append(f"{DATASET}: no {kind}")
        elif missing:
            notes.append(f"{DATASET}: {missing} utterances without {kind}")
    unused = sorted({path for letters in media.wavs.values() for path in letters.values()} - media.used)
    if unused:
        names = ", ".join(unused[:MOST_NOTES])
        notes.append(
            f"{DATASET}: {len(unused)} wavs without a row, not used ({names}{', …' * (len(unused) > 5)})"
        )
    if media.whole:
        notes.append(
            f"{DATASET}: {media.whole} videos of whole conversations not used: the release has no turn times"
        )
    ends: Counter = Counter()
    for u in utterances:
        ends[u.split, u.dialogue_id] = max(ends[u.split, u.dialogue_id], u.turn + 1)
    absent = sum(ends.values()) - len(utterances)
    if absent:
        notes.append(
            f"{DATASET}: {absent} turn numbers without a row; numbers are kept, gaps are no exchanges"
        )
    return notes


ENTRY = Dataset(
    DATASET,
    "MultiDialog",
    "metadata/train/train_metadata_0000.jsonl",
    claim,
    read,
    LABELS,
    source=Source(
        "MultiDialog (Park et al., ACL 2024)",
        "cc, as its card says without a version",
        "https://huggingface.co/datasets/IVLLab/MultiDialog",
        (
            HubFolders(
                "https://huggingface.co",
                "IVLLab/MultiDialog",
                ("metadata/train", "metadata/test_freq", "data/train", "data/test_freq"),
            ),
        ),
        "the archives are read where they lie. The videos are published apart, on a shared drive that the card "
        "links; put them under a folder named video",
    ),
    not_needed=re.compile(
        rf"(?:.*/)?(?:README[^/]*|MultiDialog\.py|metadata\.jsonl|(?:{'|'.join(LEFT_OUT)})/.*|"
        rf"(?:{'|'.join(LEFT_OUT)})_chunks_[0-9]+[^/]*)"
    ),
    # dev is our part of the release's train; its own valid splits are not read.
    published=(
        Published("train", ("train", "dev"), 151_645, 7011),
        Published("test_freq", ("test",), 9811, 450),
    ),
)
