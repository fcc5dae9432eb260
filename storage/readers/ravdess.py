"""Reader of RAVDESS: acted sentences, spoken and sung, all described by their file names.

One utterance for each trial, whichever of its modalities lie there: no dialogue, and no reply. The release has no
official split; its utterances leave here without one. Knows nothing of decoding.
Source: the release's page; Livingstone and Russo, 2018.
"""

from __future__ import annotations

import re
from pathlib import Path

from storage.fetch.sources import Source, ZenodoRecord
from storage.labels import LabelTable
from storage.readers.common import (
    Dialogues,
    RawDataError,
    RawDataset,
    choose_file,
    file_name,
    is_pointer_file,
)
from storage.readers.dataset import Dataset, share_of_actors
from storage.readers.known_bad import KnownBad
from storage.readers.published import Published
from storage.settings import DataSettings, LabelPolicy
from storage.utterance import SPLITS, Reject, Utterance

DATASET = "ravdess"
NAME = re.compile(r"(0[1-3])-((?:[0-9]{2}-){5}[0-9]{2})\.(mp4|wav)")
TRIAL = re.compile(
    r"(?P<channel>01|02)-(?P<emotion>[0-9]{2})-(?P<intensity>01|02)-(?P<statement>01|02)-(?P<repetition>01|02)-"
    r"(?P<actor>0[1-9]|1[0-9]|2[0-4])"
)
STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
SUFFIX = {"01": "mp4", "02": "mp4", "03": "wav"}
"""Modality -> suffix: 01 picture and sound, 02 picture alone, 03 sound alone."""
SONG = "02"


def labels_by_choice(policy: LabelPolicy) -> dict[str, str | None]:
    return {"02": policy.ravdess_calm}


LABELS = LabelTable(
    DATASET,
    {
        "01": "neutral",
        "03": "happy",
        "04": "sad",
        "05": "angry",
        "06": "fearful",
        "07": "disgust",
        "08": "surprise",
    },
    labels_by_choice,
)


def claim(paths: list[str]) -> list[str]:
    """Of all files under a root, those of RAVDESS, by name: three two-digit fields do not make one, seven do."""
    return [p for p in paths if NAME.fullmatch(file_name(p))]


def read(raw: RawDataset, root: Path, settings: DataSettings) -> Dialogues:
    """One utterance for each trial, split empty, dialogue_id its name without the modality, turn 0.

    The three modalities show the same performance: a row takes its picture from 01, or 02, and its sound from
    03, or 01. RawDataError: only Git LFS pointers lie there, or two files of one name differ.
    """
    result = Dialogues()
    trials, copies = index_trials(root, raw.files, result)
    for trial, files in sorted(trials.items()):
        match = TRIAL.fullmatch(trial)
        assert match is not None, "index_trials keeps trials alone"
        if match["channel"] == SONG and not settings.ravdess_song:
            continue
        result.rows += 1
        result.utterances.append(
            Utterance(
                DATASET,
                "",
                trial,
                0,
                speaker=f"Actor_{match['actor']}",
                text=STATEMENTS[match["statement"]],
                emotion=LABELS.target(match["emotion"], next(iter(files.values())), settings.labels),
                emotion_raw=match["emotion"],
                video_path=files.get("01") or files.get("02"),
                audio_path=files.get("03") or files.get("01"),
            )
        )
    result.notes += notes(trials, copies, settings)
    return result


def index_trials(
    root: Path, paths: tuple[str, ...], result: Dialogues
) -> tuple[dict[str, dict[str, str]], int]:
    """Trial -> modality -> file, and how many files are copies by name. Files that are not trials are rejected."""
    found: dict[tuple[str, str], list[str]] = {}
    pointers = []
    for path in paths:
        match = NAME.fullmatch(file_name(path))
        assert match is not None, "claim took it by its name"
        modality, trial, suffix = match.groups()
        if is_pointer_file(root / path):
            pointers.append(path)
        elif TRIAL.fullmatch(trial) is None or SUFFIX[modality] != suffix:
            result.rows += 1
            result.rejects.append(Reject(DATASET, "", trial, 0, "bad_name", path))
        else:
            found.setdefault((trial, modality), []).append(path)
    if pointers and not found:
        raise RawDataError(f"{DATASET}: {pointers[0]} and {len(pointers) - 1} more are Git LFS pointers")
    result.defects += [Reject(DATASET, "", "", None, "lfs_pointer", path) for path in pointers]
    trials: dict[str, dict[str, str]] = {}
    copies = 0
    for (trial, modality), files in found.items():
        trials.setdefault(trial, {})[modality], others = choose_file(root, f"{DATASET}: {trial}", files)
        copies += len(others)
    return trials, copies


def notes(trials: dict[str, dict[str, str]], copies: int, settings: DataSettings) -> list[str]:
    notes = []
    several = sum(len(files) > 1 for files in trials.values())
    if several:
        notes.append(f"{DATASET}: {several} trials lie in several modalities; each is one row")
    if copies:
        notes.append(f"{DATASET}: {copies} files lie there twice by name; the shallower is read")
    if not settings.ravdess_song:
        songs = sum(trial.startswith(f"{SONG}-") for trial in trials)
        notes.append(f"{DATASET}: {songs} songs left out (data.ravdess_song=false)")
    return notes


AUDIT = "published audit of the wav files"
STEREO = (
    "01-02-01-01-02-01", "01-08-01-02-02-01", "01-02-01-02-02-05", "01-03-01-02-01-20", "01-06-01-01-02-20",
    "02-01-01-01-01-24",
)  # fmt: skip

ENTRY = Dataset(
    DATASET,
    "RAVDESS",
    "03-01-06-01-02-01-12.wav",
    claim,
    read,
    LABELS,
    test_parts=share_of_actors,
    single_clips=True,
    source=Source(
        "RAVDESS (Livingstone and Russo, PLoS ONE 2018)",
        "CC BY-NC-SA 4.0",
        "https://creativecommons.org/licenses/by-nc-sa/4.0/",
        (ZenodoRecord("https://zenodo.org/api/records/1188976"),),
        "unpack the zips side by side: for z in *.zip; do unzip -qn $z; done",
    ),
    known_bad=(
        KnownBad(None, "01-03-01-02-02-07", 0, "audio", "the sound of repetition 01 again", AUDIT),
        *(KnownBad(None, trial, 0, "flag", "stereo among mono files", AUDIT) for trial in STEREO),
    ),
    not_needed=re.compile(r"(?:.*/)?(?:Audio|Video)_(?:Speech|Song)_Actors?_[0-9-]+\.zip"),
    published=(
        Published(
            "speech and song", SPLITS, 2452, None,
            {"01": 188, "02": 376, "03": 376, "04": 376, "05": 376, "06": 376, "07": 192, "08": 192},
        ),
    ),
)  # fmt: skip
