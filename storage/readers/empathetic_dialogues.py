"""Reader of EmpatheticDialogues: two people talk about a situation that one of them lived through.

A line is a row and a comma is a separator, always: commas of the text are written _comma_, and quotes mean nothing
(a CSV reader that follows them loses thousands of rows). The label is of the situation, not of an utterance: it stands,
as it is spelled, with the utterance that opens the conversation, and has no target unless data.labels.map gives it
one. Knows nothing of media: there are none.
Source: the release's README and issues; Rashkin et al., ACL 2019.
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
    printable,
    read_splits,
    read_text,
    whole_number,
    without_repeated_dialogues,
)
from storage.readers.dataset import Dataset
from storage.readers.published import Published
from storage.settings import DataSettings
from storage.utterance import Reject, Utterance

DATASET = "empathetic_dialogues"
FILES = {"train.csv": "train", "valid.csv": "dev", "test.csv": "test"}
FOLDER = re.compile(r"empathetic[-_ ]?dialogues?.*", re.IGNORECASE)
COLUMNS = ("conv_id", "utterance_idx", "context", "prompt", "speaker_idx", "utterance", "selfeval", "tags")
WIDTHS = (len(COLUMNS), len(COLUMNS) + 1)
"""valid and test have one more where the other replies stand that were to be ranked."""
CONVERSATION = re.compile(r"hit:[0-9]{1,9}_conv:[0-9]{1,9}")
SITUATIONS = (
    "afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring", "confident",
    "content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful", "furious",
    "grateful", "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely", "nostalgic", "prepared", "proud",
    "sad", "sentimental", "surprised", "terrified", "trusting",
)  # fmt: skip
LABELS = LabelTable(DATASET, dict.fromkeys(SITUATIONS))


def claim(paths: list[str]) -> list[str]:
    """Of all files under a root, those of EmpatheticDialogues: in a folder of that name, or all three side by side."""
    named = [p for p in paths if file_name(p) in FILES]
    folders = [p.rpartition("/")[0] for p in named]
    return [
        path
        for path, folder in zip(named, folders, strict=True)
        if any(map(FOLDER.fullmatch, folder.split("/"))) or folders.count(folder) == len(FILES)
    ]


def read(raw: RawDataset, root: Path, settings: DataSettings) -> Dialogues:
    """Utterances with their official split; dialogue_id is conv_id, turn is utterance_idx (from 1)."""
    result = read_splits(DATASET, FILES, raw.files, partial(read_part, root, settings=settings))
    result = without_repeated_dialogues(result, key=lambda said: said[0].dialogue_id)
    result.notes.append(
        f"{DATASET}: the label is of the situation; it stands with the opening utterance, the others have none"
    )
    return result


def read_part(root: Path, path: str, split: str, settings: DataSettings) -> Dialogues:
    """One file. RawDataError: its columns are others; LabelError: an unknown situation."""
    lines = lines_of(read_text(root, path))
    header = tuple(name.strip() for name in lines[0].split(","))
    if header[: len(COLUMNS)] != COLUMNS:
        raise RawDataError(
            f"{path}: columns {', '.join(header)[:200] or 'missing'}; wanted {', '.join(COLUMNS)}; if this is no "
            "EmpatheticDialogues file, take it out of the raw folder"
        )
    result = Dialogues()
    seen: set[tuple[str, int]] = set()
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            read_row(line, split, f"{path} line {number}", seen, result, settings)
    if result.rejects and not result.utterances:
        raise RawDataError(f"{path}: none of {len(result.rejects)} rows can be used; download it again")
    return result


def read_row(
    line: str, split: str, where: str, seen: set[tuple[str, int]], result: Dialogues, settings: DataSettings
) -> None:
    """One line -> an utterance or a reject of `result`. A row whose fields are shifted is recognised by its ids."""
    # The candidates that fill the ninth field of valid and test may be long; nothing here reads them.
    fields = line.split(",", len(COLUMNS))
    conversation = fields[0].strip()
    try:
        if len(fields) not in WIDTHS or "," in fields[-1] or not CONVERSATION.fullmatch(conversation):
            raise ValueError
        turn, speaker = whole_number(fields[1].strip()), str(whole_number(fields[4].strip()))
    except ValueError:
        result.rejects.append(
            Reject(DATASET, split, "", None, "bad_row", f"{where}: {printable(line[:120])}")
        )
        return
    text = one_line(fields[5].replace("_comma_", ",").replace("_pipe_", "|"))
    reason = "duplicate" if (conversation, turn) in seen else "" if text else "empty_text"
    if reason:
        result.rejects.append(Reject(DATASET, split, conversation, turn, reason, where))
        return
    seen.add((conversation, turn))
    situation = fields[2].strip()
    target = LABELS.target(situation, where, settings.labels)
    opens = turn == 1
    result.utterances.append(
        Utterance(
            DATASET,
            split,
            conversation,
            turn,
            speaker,
            text,
            target if opens else None,
            situation if opens else None,
        )
    )


ENTRY = Dataset(
    DATASET,
    "EmpatheticDialogues",
    "empatheticdialogues/train.csv",
    claim,
    read,
    LABELS,
    source=Source(
        "EmpatheticDialogues (Rashkin et al., ACL 2019)",
        "CC BY-NC 4.0",
        "https://github.com/facebookresearch/EmpatheticDialogues/blob/main/LICENSE",
        (
            FixedFiles(
                (
                    RemoteFile(
                        "empatheticdialogues.tar.gz",
                        "https://dl.fbaipublicfiles.com/parlai/empatheticdialogues/empatheticdialogues.tar.gz",
                    ),
                )
            ),
        ),
        "unpack it: tar -xzf empatheticdialogues.tar.gz",
    ),
    # The page counts conversations alone.
    published=(
        Published("train", ("train",), None, 19_533),
        Published("valid", ("dev",), None, 2770),
        Published("test", ("test",), None, 2547),
    ),
    not_needed=re.compile(
        r"(?:.*/)?(?:README[^/]*|LICENSE[^/]*|empatheticdialogues\.tar\.gz)", re.IGNORECASE
    ),
)
