"""Reader of MultiDialog: metadata lines per split, one wav per utterance, and videos where the user has them.

Knows nothing of decoding. Of the five official splits it reads train and test_freq (paper, section 4.1).
Source: the release's data card and loader; Park et al., ACL 2024.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
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

DATASET = "multidialog"
SPLITS = {"train": "train", "test_freq": "test"}
LEFT_OUT = ("valid_freq", "valid_rare", "test_rare")
METADATA_NAME = re.compile(r"(train|valid_freq|valid_rare|test_freq|test_rare)_metadata_\d+\.jsonl")
ARCHIVE_NAME = re.compile(r"(train|test_freq)_chunks_\d+\.tar\.gz")
MEDIA_STEM = re.compile(r"(.+)_(\d+)([a-z])")
CONVERSATION_STEM = re.compile(r"t_[0-9a-f]{8}-[0-9a-f-]{27}")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
PATH_KEYS = ("file_name", "audpath", "original_full_path", "audio")


@dataclass(frozen=True)
class Turn:
    """One metadata line, normalised. `letter` is the actor, `role` what the line says of `from`."""

    conversation: str
    turn: int
    role: str
    letter: str
    text: str
    emotion: str
    where: str


@dataclass
class Metadata:
    """The lines of one folder of one split, and those that are no turns."""

    turns: list[Turn] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def claim(paths: list[str]) -> list[str]:
    """Of all files under a root, those of MultiDialog; none where there is no metadata.

    RawDataError where the audio is still packed.
    """
    metadata = [p for p in paths if metadata_split(p)]
    if not metadata:
        return []
    wavs = [p for p in paths if p.endswith(".wav") and media_key(p) and not left_out(p)]
    videos = [p for p in paths if is_video(p) and not left_out(p)]
    packed = [p for p in paths if ARCHIVE_NAME.fullmatch(file_name(p))]
    if packed and not wavs:
        raise RawDataError(
            f"{DATASET}: {packed[0]} is still packed ({len(packed)} archives, no wav unpacked); "
            "unpack each archive in its folder (tar -xzf), or take the archives away to read text only"
        )
    return sorted(metadata + wavs + videos)


def read(raw: RawDataset, root: Path, settings: DataSettings) -> Dialogues:
    """Utterances of train and test_freq (as test), turn = utterance_id with its gaps kept."""
    result = Dialogues()
    ignored: list[str] = []
    wavs = index_media(raw.files, lambda p: p.endswith(".wav"))
    videos = index_media(raw.files, is_video)
    for official, split in SPLITS.items():
        folders = metadata_folders(raw.files, official)
        if not folders:
            result.notes.append(f"{DATASET}: no metadata of {official}")
            continue
        metadata, others = choose_copy(
            DATASET,
            folders,
            lambda f, o=official, s=split: read_metadata(root, metadata_folders(raw.files, o)[f], s),
            normalised_rows,
        )
        ignored += others
        result.rejects += metadata.rejects
        result.utterances += build_utterances(metadata, split, wavs, videos, settings, result.rejects)
    result.notes += copies_note(DATASET, ignored)
    result.notes += left_out_notes(raw, root) + media_notes(raw, result.utterances)
    return result


def metadata_split(path: str) -> str:
    """Official split of a metadata file, from its name or from metadata/<split>/; empty for other files."""
    match = METADATA_NAME.fullmatch(file_name(path))
    if match:
        return match[1]
    parts = path.split("/")
    if path.endswith(".jsonl") and len(parts) >= 3 and parts[-3] == "metadata":
        if parts[-2] in SPLITS or parts[-2] in LEFT_OUT:
            return parts[-2]
    return ""


def metadata_folders(paths: tuple[str, ...], official: str) -> dict[str, list[str]]:
    """Folder -> its metadata files of one split. Two folders of one split are two copies."""
    folders: dict[str, list[str]] = {}
    for path in paths:
        if metadata_split(path) == official:
            folders.setdefault(path.rpartition("/")[0], []).append(path)
    return folders


def read_metadata(root: Path, files: list[str], split: str) -> Metadata:
    """Parse the metadata of one split. A line that is no turn is rejected; a file of none is RawDataError."""
    result = Metadata()
    seen: set[tuple[str, int]] = set()
    for path in files:
        before, problems = len(result.turns), []
        for number, line in enumerate(read_text(root, path).split("\n"), start=1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            turn, problem = parse_line(line, where)
            if turn is None:
                problems.append(problem)
                result.rejects.append(Reject(DATASET, split, "", None, "bad_row", f"{where}: {problem}"))
            elif (turn.conversation, turn.turn) in seen:
                result.rejects.append(
                    Reject(DATASET, split, turn.conversation, turn.turn, "duplicate", where)
                )
            else:
                seen.add((turn.conversation, turn.turn))
                result.turns.append(turn)
        if problems and len(result.turns) == before:
            raise RawDataError(f"{path}: no line is a MultiDialog turn ({problems[0]}); download it again")
    return result


def parse_line(line: str, where: str) -> tuple[Turn | None, str]:
    """One line of either key generation -> (turn, ""), or (None, what is wrong).

    First generation: id, utterance (its number), from, value, emotion, audpath. Second: conv_id,
    utterance_id, from, value, emotion, file_name, original_full_path.
    """
    try:
        row = json.loads(line)
    except ValueError:
        return None, "not JSON"
    if not isinstance(row, dict):
        return None, "not a JSON object"
    conversation, turn, letter = media_of_row(row)
    conversation = str(row.get("conv_id") or conversation or row.get("id") or "")
    number = row.get("utterance_id", row.get("utterance", turn))
    try:
        number = int(number)
    except (TypeError, ValueError):
        number = turn
    missing = [
        name
        for name, value in (
            ("conv_id or id", conversation or None),
            ("utterance_id or utterance", number),
            ("value", row.get("value")),
            ("emotion", row.get("emotion")),
        )
        if value is None
    ]
    role = str(row.get("from") or "").strip()
    if not role and not letter:
        missing.append("from or file_name")
    if missing:
        return None, f"keys missing: {', '.join(missing)}"
    text = " ".join(str(row["value"]).split("\n")).strip()
    return Turn(conversation, number, role, letter, text, str(row["emotion"]), where), ""


def media_of_row(row: dict) -> tuple[str, int | None, str]:
    """Conversation, turn and actor's letter from the first path in the row that names them."""
    for name in PATH_KEYS:
        value = row.get(name)
        if isinstance(value, dict):
            value = value.get("path")
        match = MEDIA_STEM.fullmatch(stem(value)) if isinstance(value, str) else None
        if match:
            return match[1], int(match[2]), match[3]
    return "", None, ""


def normalised_rows(metadata: Metadata) -> list[tuple]:
    rows = [(t.conversation, t.turn, t.role, t.letter, t.text, t.emotion) for t in metadata.turns]
    return sorted(rows) + sorted((r.dialogue_id, r.turn or -1, r.reason) for r in metadata.rejects)


def build_utterances(
    metadata: Metadata,
    split: str,
    wavs: dict[tuple[str, int], str],
    videos: dict[tuple[str, int], str],
    settings: DataSettings,
    rejects: list[Reject],
) -> list[Utterance]:
    conversations: dict[str, list[Turn]] = {}
    for turn in metadata.turns:
        if turn.text:
            conversations.setdefault(turn.conversation, []).append(turn)
        else:
            rejects.append(Reject(DATASET, split, turn.conversation, turn.turn, "empty_text", turn.where))
    result = []
    for conversation in sorted(conversations):
        turns = sorted(conversations[conversation], key=lambda t: t.turn)
        for turn, speaker in zip(turns, speakers(turns, wavs), strict=True):
            key = (conversation, turn.turn)
            video = videos.get(key)
            emotion = target_emotion(DATASET, turn.emotion, turn.where, settings.labels)
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
                    audio_path=wavs.get(key, video),
                )  # fmt: skip
            )
    return result


def speakers(turns: list[Turn], wavs: dict[tuple[str, int], str]) -> list[str]:
    """Who speaks: the actor's letter of the wav name, where every turn of the conversation has one.

    `from` is a role for language models ("gpt" opens); both sides are people. It stands in for a
    conversation whose letters are not all known, so that one person never has two names.
    """
    letters = []
    for turn in turns:
        wav = wavs.get((turn.conversation, turn.turn))
        letters.append(turn.letter or (media_key(wav)[2] if wav else ""))
    if all(letters):
        return letters
    return [turn.role or letter for turn, letter in zip(turns, letters, strict=True)]


def media_key(path: str) -> tuple[str, int, str] | None:
    """(conversation, turn, letter) of a media file named after its utterance."""
    match = MEDIA_STEM.fullmatch(stem(path))
    return (match[1], int(match[2]), match[3]) if match else None


def index_media(paths: tuple[str, ...], wanted: Callable[[str], bool]) -> dict[tuple[str, int], str]:
    """(conversation, turn) -> file; of several the shallowest."""
    found: dict[tuple[str, int], str] = {}
    for path in by_depth(p for p in paths if wanted(p)):
        key = media_key(path)
        if key:
            found.setdefault(key[:2], path)
    return found


def is_video(path: str) -> bool:
    """A video below a folder named video…, of one utterance or (by its name) of a whole conversation."""
    folders = path.split("/")[:-1]
    if not path.lower().endswith(VIDEO_SUFFIXES) or not any(f.lower().startswith("video") for f in folders):
        return False
    return media_key(path) is not None or CONVERSATION_STEM.fullmatch(stem(path)) is not None


def left_out(path: str) -> bool:
    return any(folder in LEFT_OUT for folder in path.split("/")[:-1])


def left_out_notes(raw: RawDataset, root: Path) -> list[str]:
    notes = []
    for official in LEFT_OUT:
        files = [p for p in raw.files if metadata_split(p) == official]
        rows = sum(bool(line.strip()) for p in files for line in read_text(root, p).split("\n"))
        if files:
            notes.append(f"{DATASET}: {official} left out ({rows} rows): test_freq alone is the test split")
    return notes


def media_notes(raw: RawDataset, utterances: list[Utterance]) -> list[str]:
    notes = []
    for kind, missing, some in (
        ("audio", sum(u.audio_path is None for u in utterances), any(u.audio_path for u in utterances)),
        ("video", sum(u.video_path is None for u in utterances), any(u.video_path for u in utterances)),
    ):
        if not some:
            notes.append(f"{DATASET}: no {kind}")
        elif missing:
            notes.append(f"{DATASET}: {missing} utterances without {kind}")
    whole = sum(is_video(p) and media_key(p) is None for p in raw.files)
    if whole:
        notes.append(
            f"{DATASET}: {whole} videos of whole conversations not used: the release has no turn times"
        )
    return notes


def file_name(path: str) -> str:
    return path.rpartition("/")[2]


def stem(path: str) -> str:
    name = file_name(path)
    return name.rpartition(".")[0] or name
