"""Reader of MultiDialog: metadata lines per split, one wav per utterance, and videos where the user has them.

The wavs are read from the release's archives where those still lie packed (storage/archives). Knows nothing of
decoding. Of the five official splits it reads train and test_freq (paper, section 4.1).
Source: the release's data card and loader; Park et al., ACL 2024.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from storage.archives import SUFFIXES as ARCHIVE_SUFFIXES
from storage.archives import list_members, member_path
from storage.fetch.sources import HubFolders, Source
from storage.labels import LabelTable
from storage.readers.common import (
    Dialogues,
    RawDataError,
    RawDataset,
    choose_copy,
    choose_file,
    copies_note,
    counted_by_suffix,
    file_name,
    is_text,
    lines_of,
    read_text,
    whole_number,
)
from storage.readers.dataset import Dataset
from storage.readers.published import Published
from storage.settings import DataSettings
from storage.utterance import Reject, Utterance

DATASET = "multidialog"
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
SPLITS = {"train": "train", "test_freq": "test"}
LEFT_OUT = ("valid_freq", "valid_rare", "test_rare")
METADATA_NAME = re.compile(r"(train|valid_freq|valid_rare|test_freq|test_rare)_metadata_[0-9]+\.jsonl")
ARCHIVE_NAME = re.compile(
    r"(train|valid_freq|valid_rare|test_freq|test_rare)_chunks_[0-9]+"
    rf"({'|'.join(map(re.escape, ARCHIVE_SUFFIXES))})"
)
CONVERSATION = r"t_[0-9a-f]{8}-[0-9a-f-]{27}"
MEDIA_STEM = re.compile(r"(.+)_([0-9]{1,9})([a-z])")
WAV_STEM = re.compile(rf"({CONVERSATION})_([0-9]{{1,9}})([a-z])")
CONVERSATION_STEM = re.compile(CONVERSATION)
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
VIDEO_FIELDS = {
    "{conversation}": "(?P<conversation>.+)",
    "{turn}": "(?P<turn>[0-9]{1,9})",
    "{actor}": "[a-z]",
}
PATH_KEYS = ("file_name", "audpath", "original_full_path", "audio")
MOST_NOTES = 5

Key = tuple[str, int]
"""Conversation and turn."""


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
    rows: int = 0


@dataclass
class Media:
    """Where the wavs and videos of utterances lie. A turn may have several wavs, told by the actor's letter."""

    wavs: dict[Key, dict[str, str]] = field(default_factory=dict)
    videos: dict[Key, str] = field(default_factory=dict)
    whole: int = 0
    defects: list[Reject] = field(default_factory=list)
    used: set[str] = field(default_factory=set)


class TurnError(ValueError):
    """A metadata line that is no turn: the reject's reason, and what is wrong."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


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


# Metadata ----------------------------------------------------------------------------------------------


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


def read_folder(root: Path, folder: str, folders: dict[str, list[str]], split: str) -> Metadata:
    return read_metadata(root, folders[folder], split)


def read_metadata(root: Path, files: list[str], split: str) -> Metadata:
    """Parse the metadata of one split. A line that is no turn is rejected; a file of none is RawDataError."""
    result = Metadata()
    seen: set[Key] = set()
    for path in files:
        before, problems = len(result.turns), []
        for number, line in enumerate(lines_of(read_text(root, path)), start=1):
            if not line.strip():
                continue
            result.rows += 1
            where = f"{path} line {number}"
            try:
                turn = parse_line(line, where)
            except TurnError as problem:
                problems.append(problem)
                result.rejects.append(Reject(DATASET, split, "", None, problem.reason, f"{where}: {problem}"))
                continue
            key = (turn.conversation, turn.turn)
            reason = "duplicate" if key in seen else "" if turn.text else "empty_text"
            if reason:
                result.rejects.append(Reject(DATASET, split, *key, reason=reason, detail=where))
                continue
            seen.add(key)
            result.turns.append(turn)
        if problems and len(result.turns) == before:
            raise RawDataError(f"{path}: no line is a MultiDialog turn ({problems[0]}); download it again")
    return result


def parse_line(line: str, where: str) -> Turn:
    """One line of either key generation -> a turn. TurnError: what is wrong.

    First generation: id, utterance (its number), from, value, emotion, audpath. Second: conv_id,
    utterance_id, from, value, emotion, file_name, original_full_path.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise TurnError("bad_row", "not JSON") from None
    if not isinstance(row, dict):
        raise TurnError("bad_row", "not a JSON object")
    check_path(row.get("file_name"))
    named, number, letter = media_of_row(row)
    conversation = row.get("conv_id") or named or row.get("id")
    turn = turn_of_row(row, number)
    role = row.get("from") or ""
    required = (
        ("conv_id or id", conversation or None),
        ("utterance_id or utterance", turn),
        ("value", row.get("value")),
        ("emotion", row.get("emotion")),
        ("from or file_name", role or letter or None),
    )
    missing = [name for name, value in required if value is None]
    if missing:
        raise TurnError("bad_row", f"keys missing: {', '.join(missing)}")
    strings = (conversation, row["value"], row["emotion"], role)
    if not all(isinstance(value, str) and is_text(value) for value in strings):
        raise TurnError("bad_row", "a value that is no text")
    assert conversation is not None and turn is not None, "what is missing was refused"
    if not conversation.isprintable() or "/" in conversation:
        raise TurnError("bad_row", "conv_id is no name of a conversation")
    if named and (named, number) != (conversation, turn):
        raise TurnError("bad_row", f"its file is of {named[:60]} turn {number}")
    text = " ".join(row["value"].split("\n")).strip()
    return Turn(conversation, turn, role.strip(), letter, text, row["emotion"], where)


def check_path(path: object) -> None:
    """`file_name` is relative to the release; nothing is opened by it, but one that leaves the root is no turn."""
    if isinstance(path, str) and (path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path)):
        raise TurnError("path_leaves_root", f"file_name {path[:80]!r}")


def turn_of_row(row: dict, named: int | None) -> int | None:
    """The turn's number, an integer or its digits; where the row has none, the one in its file's name."""
    value = row.get("utterance_id", row.get("utterance"))
    if value is None:
        return named
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TurnError("bad_row", "utterance_id is no whole number")
    try:
        return whole_number(str(value).strip())
    except ValueError:
        if named is None or row.get("utterance_id") is not None:
            raise TurnError("bad_row", "utterance_id is no whole number") from None
        return named  # the first generation may hold something else under `utterance`


def media_of_row(row: dict) -> tuple[str, int | None, str]:
    """Conversation, turn and actor's letter from the first path in the row that names them."""
    for name in PATH_KEYS:
        value = row.get(name)
        if isinstance(value, dict):
            value = value.get("path")
        match = MEDIA_STEM.fullmatch(stem(value)) if isinstance(value, str) and is_text(value) else None
        if match:
            return match[1], int(match[2]), match[3]
    return "", None, ""


def normalised_rows(metadata: Metadata) -> list[tuple]:
    rows = [(t.conversation, t.turn, t.role, t.letter, t.text, t.emotion) for t in metadata.turns]
    return sorted(rows) + sorted((r.dialogue_id, r.turn or -1, r.reason) for r in metadata.rejects)


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


# Media -------------------------------------------------------------------------------------------------


def index_media(root: Path, paths: tuple[str, ...], settings: DataSettings) -> Media:
    """Every wav and video by conversation and turn. What lies unpacked wins over a member of an archive."""
    media = Media()
    unpacked: dict[tuple[Key, str], list[str]] = {}
    for path in paths:
        match = WAV_STEM.fullmatch(stem(path)) if path.endswith(".wav") else None
        if match:
            unpacked.setdefault(((match[1], int(match[2])), match[3]), []).append(path)
    for (key, letter), copies in unpacked.items():
        chosen, _ = choose_file(root, f"{DATASET}: wav of {key[0]} turn {key[1]}", copies)
        media.wavs.setdefault(key, {})[letter] = chosen
    for path in (p for p in paths if archive_split(p) in SPLITS):
        add_members(media, root, path, settings)
    index_videos(media, root, [p for p in paths if is_video(p)], settings.multidialog_video)
    return media


def add_members(media: Media, root: Path, archive: str, settings: DataSettings) -> None:
    listing = list_members(root, archive, settings.limits)
    split = SPLITS[archive_split(archive)]
    strange = []
    for name in listing.digests:
        match = WAV_STEM.fullmatch(stem(name)) if name.endswith(".wav") else None
        if match:
            letters = media.wavs.setdefault((match[1], int(match[2])), {})
            letters.setdefault(match[3], member_path(archive, name))
        else:
            strange.append(name)
    media.defects += [
        Reject(DATASET, split, "", None, "not_read", f"{archive}: {line}")
        for line in [*counted_by_suffix(strange), *listing.skipped]
    ]
    if listing.problem:
        media.defects.append(
            Reject(
                DATASET,
                split,
                "",
                None,
                "damaged_archive" if listing.problem.startswith("damaged") else "archive_beyond_limits",
                f"{archive}: {listing.problem}",
            )
        )


def index_videos(media: Media, root: Path, paths: list[str], pattern: str) -> None:
    """Videos of one utterance by the pattern; those of whole conversations, without turn times, are counted."""
    named = compile_pattern(pattern)
    found: dict[Key, list[str]] = {}
    strange = []
    for path in paths:
        if match := named.fullmatch(stem(path)):
            found.setdefault((match["conversation"], int(match["turn"])), []).append(path)
        elif CONVERSATION_STEM.fullmatch(stem(path)):
            media.whole += 1
        else:
            strange.append(path)
    if strange and not found:
        raise RawDataError(
            f"{DATASET}: {strange[0]} is no name of an utterance's video as data.multidialog_video says "
            f"({pattern}); set the pattern of your files"
        )
    for key, copies in found.items():
        media.videos[key], _ = choose_file(root, f"{DATASET}: video of {key[0]} turn {key[1]}", copies)
    media.defects += [Reject(DATASET, "train", "", None, "video_without_turn", path) for path in strange]


def compile_pattern(pattern: str) -> re.Pattern:
    parts = re.split(r"(\{[a-z]+\})", pattern)
    unknown = [part for part in parts if part.startswith("{") and part not in VIDEO_FIELDS]
    once = all(parts.count(name) == 1 for name in ("{conversation}", "{turn}"))
    if unknown or not once:
        raise RawDataError(
            f"setting data.multidialog_video: {pattern!r} has to hold {{conversation}} and {{turn}} once, "
            "and may hold {actor}"
        )
    return re.compile("".join(VIDEO_FIELDS.get(part) or re.escape(part) for part in parts))


def archive_split(path: str) -> str:
    match = ARCHIVE_NAME.fullmatch(file_name(path))
    return match[1] if match else ""


def is_video(path: str) -> bool:
    """A video named after a conversation, or any below a folder named video…"""
    if not path.lower().endswith(VIDEO_SUFFIXES):
        return False
    folders = path.lower().split("/")[:-1]
    return CONVERSATION_STEM.match(stem(path)) is not None or any(f.startswith("video") for f in folders)


def left_out(path: str) -> bool:
    return any(folder in LEFT_OUT for folder in path.split("/")[:-1])


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


def wav_of(turn: Turn, media: Media) -> str | None:
    """The wav of a turn, by its whole name where the row tells it. RawDataError: several, and the row tells none."""
    letters = media.wavs.get((turn.conversation, turn.turn), {})
    if turn.letter:
        found = letters.get(turn.letter)
    elif len(letters) > 1:
        raise RawDataError(
            f"{DATASET}: {' and '.join(sorted(letters.values()))} are both to be turn {turn.turn} of "
            f"{turn.conversation}, and {turn.where} names neither; take one of them out of the raw folder"
        )
    else:
        found = next(iter(letters.values()), None)
    if found:
        media.used.add(found)
    return found


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


def stem(path: str) -> str:
    name = file_name(os.fspath(path))
    return name.rpartition(".")[0] or name


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
