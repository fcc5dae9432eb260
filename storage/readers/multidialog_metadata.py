"""MultiDialog's metadata: one line of JSON a turn, in the two generations of keys that were released, split by split."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from storage.readers.common import RawDataError, file_name, is_text, lines_of, read_text, whole_number
from storage.utterance import Reject

DATASET = "multidialog"
SPLITS = {"train": "train", "test_freq": "test"}
LEFT_OUT = ("valid_freq", "valid_rare", "test_rare")
METADATA_NAME = re.compile(r"(train|valid_freq|valid_rare|test_freq|test_rare)_metadata_[0-9]+\.jsonl")
MEDIA_STEM = re.compile(r"(.+)_([0-9]{1,9})([a-z])")
PATH_KEYS = ("file_name", "audpath", "original_full_path", "audio")
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
    """The turns in one folder of one split, and its rejects."""

    turns: list[Turn] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    rows: int = 0


class TurnError(ValueError):
    """A metadata line that is not a turn: the reject's reason, and what is wrong."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


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
    """`file_name` is relative to the release; nothing is opened by it, but a path that leaves the root makes the line
    a reject.
    """
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


def stem(path: str) -> str:
    name = file_name(os.fspath(path))
    return name.rpartition(".")[0] or name
