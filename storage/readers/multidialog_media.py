"""MultiDialog's sounds and videos: which file, or which member of an archive, is of which turn."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from storage.archives import SUFFIXES as ARCHIVE_SUFFIXES
from storage.archives import list_members, member_path
from storage.readers.common import RawDataError, choose_file, counted_by_suffix, file_name
from storage.readers.multidialog_metadata import DATASET, LEFT_OUT, SPLITS, Key, Turn, stem
from storage.settings import DataSettings
from storage.utterance import Reject

ARCHIVE_NAME = re.compile(
    r"(train|valid_freq|valid_rare|test_freq|test_rare)_chunks_[0-9]+"
    rf"({'|'.join(map(re.escape, ARCHIVE_SUFFIXES))})"
)
CONVERSATION = r"t_[0-9a-f]{8}-[0-9a-f-]{27}"
WAV_STEM = re.compile(rf"({CONVERSATION})_([0-9]{{1,9}})([a-z])")
CONVERSATION_STEM = re.compile(CONVERSATION)
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
VIDEO_FIELDS = {
    "{conversation}": "(?P<conversation>.+)",
    "{turn}": "(?P<turn>[0-9]{1,9})",
    "{actor}": "[a-z]",
}


@dataclass
class Media:
    """Where the wavs and videos of utterances lie. A turn may have several wavs, one for each actor's letter."""

    wavs: dict[Key, dict[str, str]] = field(default_factory=dict)
    videos: dict[Key, str] = field(default_factory=dict)
    whole: int = 0
    defects: list[Reject] = field(default_factory=list)
    used: set[str] = field(default_factory=set)


def index_media(root: Path, paths: tuple[str, ...], settings: DataSettings) -> Media:
    """Every wav and video by conversation and turn. An unpacked file wins over a member of an archive."""
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


def wav_of(turn: Turn, media: Media) -> str | None:
    """The wav of a turn, by its whole name where the row tells it. RawDataError: several, and the row tells none."""
    letters = media.wavs.get((turn.conversation, turn.turn), {})
    if turn.letter:
        found = letters.get(turn.letter)
    elif len(letters) > 1:
        raise RawDataError(
            f"{DATASET}: {' and '.join(sorted(letters.values()))} are both named as turn {turn.turn} of "
            f"{turn.conversation}, and {turn.where} names neither; take one of them out of the raw folder"
        )
    else:
        found = next(iter(letters.values()), None)
    if found:
        media.used.add(found)
    return found
