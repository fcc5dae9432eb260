"""Reader of a user's own dialogues: JSON lines or CSV, one turn a row.

Files are recognised by their names: dialogues.jsonl, dialogues.csv, or with a name before it (train.dialogues.csv). A
row has dialogue_id, turn, speaker and text, and may have emotion, clip and split. A name of train, dev or test before
".dialogues" is the split of rows that name none. Clips lie below the file's folder. Knows nothing of decoding.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from storage.labels import LabelError, LabelTable
from storage.readers.common import (
    Dialogues,
    RawDataError,
    RawDataset,
    counted_by_suffix,
    file_name,
    is_text,
    lines_of,
    one_line,
    printable,
    read_text,
    whole_number,
)
from storage.readers.dataset import Dataset, share_of_dialogues
from storage.settings import DataSettings
from storage.utterance import EMOTIONS, Reject, Utterance

DATASET = "own"
LABELS = LabelTable(DATASET, {emotion: emotion for emotion in EMOTIONS})
NAME = re.compile(r"(?:(?P<part>.+)\.)?dialogues\.(?:jsonl|csv)", re.IGNORECASE)
REQUIRED = ("dialogue_id", "turn", "speaker", "text")
OPTIONAL = ("emotion", "clip", "split")
SPLIT_NAMES = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
SOUNDS = (".wav", ".mp3", ".flac", ".ogg", ".m4a")
FILMS = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".flv")
MOST_LINES, MOST_CHARS = 200, 100_000
"""Characters of one CSV row: a quote that is left open must not swallow the rest of its file."""


@dataclass
class Rows:
    """What the files say: utterances without regard to their labels' spelling, and all that is wrong.

    unknown: a label without a target, by row. unread: file -> its columns that nothing reads.
    """

    utterances: list[Utterance] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    defects: list[Reject] = field(default_factory=list)
    unknown: list[LabelError] = field(default_factory=list)
    unread: dict[str, list[str]] = field(default_factory=dict)
    clips: set[str] = field(default_factory=set)


class RowError(ValueError):
    """A row that is not a turn: the reject's reason, and what is wrong."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def claim(paths: list[str]) -> list[str]:
    """Of all files under a root, dialogues and the media below their folders."""
    tables = [p for p in paths if NAME.fullmatch(file_name(p))]
    folders = tuple({f"{p.rpartition('/')[0]}/".lstrip("/") for p in tables})
    media = [p for p in paths if tables and p.startswith(folders) and p.lower().endswith(SOUNDS + FILMS)]
    return sorted(tables + media)


def read(raw: RawDataset, root: Path, settings: DataSettings) -> Dialogues:
    """Utterances with the split they name, or none. RawDataError: a file of no rows; LabelError: a foreign label."""
    rows = read_rows(raw, root, settings)
    if rows.unknown:
        raise rows.unknown[0]
    found = as_dialogues(rows)
    if found.rows and not found.utterances:
        first = found.rejects[0].detail
        raise RawDataError(f"{first}; none of {found.rows} rows can be used: `empamba check` lists them")
    return found


def as_dialogues(rows: Rows) -> Dialogues:
    notes = [
        f"{DATASET}: {path}: columns that nothing reads: {', '.join(names)}"
        for path, names in sorted(rows.unread.items())
    ]
    return Dialogues(
        rows.utterances, rows.rejects, rows.defects, notes, len(rows.utterances) + len(rows.rejects)
    )


def read_rows(raw: RawDataset, root: Path, settings: DataSettings) -> Rows:
    """Every row of every file, whatever is wrong with others."""
    result = Rows()
    files = set(raw.files)
    keys: set[tuple] = set()
    for path in (p for p in raw.files if p.lower().endswith((".jsonl", ".csv"))):
        splits: dict[str, str] = {}
        before = len(result.utterances), len(result.rejects)
        for number, row in rows_of(root, path, result):
            where = f"{path}:{number}"
            try:
                if isinstance(row, RowError):
                    raise row
                utterance = turn_of(row, path, where, splits, keys)
            except RowError as problem:
                result.rejects.append(
                    Reject(DATASET, "", "", None, problem.reason, f"{where}: {printable(str(problem))}")
                )
                continue
            result.utterances.append(with_clip(utterance, row, path, where, files, result, settings))
        taken = len(result.utterances) - before[0]
        if not taken and len(result.rejects) == before[1]:
            result.rejects.append(Reject(DATASET, "", "", None, "no_rows", f"{path}:1: no row"))
    unused = sorted({p for p in raw.files if p.lower().endswith(SOUNDS + FILMS)} - result.clips)
    result.defects += [
        Reject(DATASET, "", "", None, "clip_without_row", line) for line in counted_by_suffix(unused)
    ]
    return result


# Rows --------------------------------------------------------------------------------------------------


def rows_of(root: Path, path: str, result: Rows) -> Iterator[tuple[int, dict | RowError]]:
    """(number of its first line, row) of every row that is not blank."""
    lines = lines_of(read_text(root, path))
    yield from (
        json_rows(lines, path, result) if path.lower().endswith(".jsonl") else csv_rows(lines, path, result)
    )


def json_rows(lines: list[str], path: str, result: Rows) -> Iterator[tuple[int, dict | RowError]]:
    unread: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, RowError("bad_row", f"not JSON: {error}"[:200])
            continue
        if not isinstance(row, dict):
            yield number, RowError("bad_row", 'not a JSON object such as {"dialogue_id": …}')
            continue
        unread |= row.keys() - {*REQUIRED, *OPTIONAL}
        yield number, row
    note_unread(unread, path, result)


def csv_rows(lines: list[str], path: str, result: Rows) -> Iterator[tuple[int, dict | RowError]]:
    records = csv_records(lines)
    number, header = next(records, (1, []))
    names = [name.lower() for name in header or []]
    missing = [name for name in REQUIRED if name not in names]
    if missing or len(set(names)) < len(names):
        what = f"columns missing: {', '.join(missing)}" if missing else "a column stands there twice"
        yield (
            number,
            RowError("bad_header", f"{what}; the first line names them: {','.join(REQUIRED + OPTIONAL)}"),
        )
        return
    note_unread(set(names) - {*REQUIRED, *OPTIONAL}, path, result)
    for number, fields in records:
        if fields is None:
            yield number, RowError("bad_row", "a quote that is never closed, or stands inside a field")
        elif len(fields) != len(names):
            yield number, RowError("bad_row", f"{len(fields)} fields where the first line has {len(names)}")
        else:
            yield number, dict(zip(names, fields, strict=True))


def csv_records(lines: list[str]) -> Iterator[tuple[int, list[str] | None]]:
    """(number of its first line, its fields; None: its quotes do not close) of every row that is not blank.

    A quoted field may hold line ends, within bounds. Where lines that a quote joins are no row together, the first
    is a bad row by itself and the next begins anew.
    """
    place, width = 0, 0
    while place < len(lines):
        first, text = place, lines[place]
        place += 1
        if not text.strip():
            continue
        fields = fields_of_record(text) if text.count('"') % 2 == 0 else joined(lines, first)
        if isinstance(fields, tuple):
            fields, end = fields
            if width and len(fields) != width:
                fields = None
            else:
                place = end
        width = width or len(fields or ())
        yield first + 1, fields


def joined(lines: list[str], first: int) -> tuple[list[str], int] | None:
    """The fields of the lines that an open quote joins, and the place behind them; None: it stays open."""
    parts, chars = [lines[first]], len(lines[first])
    for place in range(first + 1, min(len(lines), first + MOST_LINES)):
        parts.append(lines[place])
        chars += len(lines[place])
        if chars > MOST_CHARS:
            return None
        if lines[place].count('"') % 2:
            fields = fields_of_record("\n".join(parts))
            return None if fields is None else (fields, place + 1)
    return None


def fields_of_record(text: str) -> list[str] | None:
    try:
        (fields,) = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (csv.Error, ValueError):
        return None
    return [value.strip() for value in fields]


def note_unread(names: set[str], path: str, result: Rows) -> None:
    if names:
        result.unread[path] = sorted(map(printable, names))[:20]


def turn_of(row: dict, path: str, where: str, splits: dict[str, str], keys: set[tuple]) -> Utterance:
    """A row -> an utterance without its clip and target. RowError: what is wrong with it."""
    missing = [name for name in REQUIRED if row.get(name) in (None, "")]
    if missing:
        raise RowError("empty_text" if missing == ["text"] else "bad_row", f"no {', no '.join(missing)}")
    for name in (*REQUIRED, *OPTIONAL):
        value = row.get(name)
        if isinstance(value, (bool, float, list, dict)) or (isinstance(value, str) and not is_text(value)):
            raise RowError("bad_row", f"{name} is no text: {json.dumps(value)[:60]}")
    dialogue, speaker = str(row["dialogue_id"]).strip(), one_line(str(row["speaker"]))
    text = one_line(str(row["text"]))
    if not text:
        raise RowError("empty_text", "text is empty")
    if not dialogue.isprintable() or not 0 < len(dialogue) <= 200 or not speaker:
        raise RowError("bad_row", "dialogue_id and speaker must be names on one line")
    try:
        turn = whole_number(str(row["turn"]).strip())
    except ValueError:
        raise RowError("bad_turn", f"turn is no whole number from 0: {row['turn']!r}"[:120]) from None
    split = split_of(row, path)
    if splits.setdefault(dialogue, split) != split:
        raise RowError(
            "dialogue_in_two_splits", f"dialogue {dialogue} is {splits[dialogue] or 'in no split'} above"
        )
    if (split, dialogue, turn) in keys:
        raise RowError("duplicate", f"dialogue {dialogue} has a turn {turn} already")
    keys.add((split, dialogue, turn))
    label = one_line(str(row.get("emotion") or ""))
    return Utterance(DATASET, split, dialogue, turn, speaker, text, None, label or None)


def split_of(row: dict, path: str) -> str:
    """The split that a row names, or its file does, or none."""
    named = str(row.get("split") or "").strip().lower()
    if not named:
        match = NAME.fullmatch(file_name(path))
        return SPLIT_NAMES.get((match["part"] or "").lower(), "") if match else ""
    if named not in SPLIT_NAMES:
        raise RowError("bad_split", f"split is {named[:40]!r}; known: {', '.join(SPLIT_NAMES)}")
    return SPLIT_NAMES[named]


def with_clip(
    utterance: Utterance,
    row: dict,
    path: str,
    where: str,
    files: set[str],
    result: Rows,
    settings: DataSettings,
) -> Utterance:
    """The utterance with its target and clip; what is wrong with either costs no row and goes to `result`."""
    target = None
    if utterance.emotion_raw:
        try:
            target = LABELS.target(utterance.emotion_raw, where, settings.labels)
        except LabelError as error:
            result.unknown.append(error)
    clip, problem = clip_of(row, path, files)
    if problem:
        reason, detail = problem
        result.defects.append(Reject(*utterance.key, reason=reason, detail=f"{where}: {printable(detail)}"))
    if clip:
        result.clips.add(clip)
    film = clip if clip and clip.lower().endswith(FILMS) else None
    return Utterance(
        *utterance.key, utterance.speaker, utterance.text, target, utterance.emotion_raw, film, clip
    )


def clip_of(row: dict, path: str, files: set[str]) -> tuple[str | None, tuple[str, str] | None]:
    """(the clip's path below the root, what is wrong with it)."""
    named = str(row.get("clip") or "").strip()
    if not named:
        return None, None
    clip = posixpath.normpath(posixpath.join(path.rpartition("/")[0], named))
    if posixpath.isabs(named) or clip.startswith(".."):
        return None, ("bad_clip", f"clip {named[:80]!r} leads out of the folder; name it from the file's own")
    if not clip.lower().endswith(SOUNDS + FILMS):
        return None, ("bad_clip", f"clip {named[:80]!r} is none of {', '.join(SOUNDS + FILMS)}")
    if clip not in files:
        return None, ("missing_clip", f"clip {named[:80]!r} is not there")
    return clip, None


ENTRY = Dataset(
    DATASET,
    "Own dialogues",
    "dialogues.jsonl",
    claim,
    read,
    LABELS,
    test_parts=share_of_dialogues,
)
