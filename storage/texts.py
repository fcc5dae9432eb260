"""Utterances of public text corpora, on which a compressor is pretrained; they are no dialogue dataset of a run.

Reads GoEmotions' files (`.tsv`, the first column), Topical-Chat's conversations (`.json`), and one utterance a line
(`.txt`). Knows nothing of tokens or of training.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from storage.errors import InputError

FORMS = ".tsv (GoEmotions), .json (Topical-Chat) or .txt (one utterance a line)"


def read_texts(files: Sequence[Path]) -> tuple[list[str], dict[str, int]]:
    """Distinct texts in the order of the files, white space made single; and how many were left out, by reason.

    InputError for a file that is not one of these forms.
    """
    seen: dict[str, None] = {}
    left_out = {"empty": 0, "repeated": 0}
    for file in files:
        for text in _read(Path(file)):
            text = " ".join(text.split())
            if not text:
                left_out["empty"] += 1
            elif text in seen:
                left_out["repeated"] += 1
            else:
                seen[text] = None
    return list(seen), left_out


def _read(file: Path) -> list[str]:
    try:
        content = file.read_text(encoding="utf-8")
        if file.suffix == ".tsv":
            return [
                row[0] for row in csv.reader(content.splitlines(), "excel-tab", quoting=csv.QUOTE_NONE) if row
            ]
        if file.suffix == ".json":
            return [turn["message"] for talk in json.loads(content).values() for turn in talk["content"]]
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give {FORMS}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        raise InputError(
            f"{file}: not what its name says ({type(error).__name__}: {error}); give {FORMS}"
        ) from None
    if file.suffix != ".txt":
        raise InputError(f"{file}: of no known form; give {FORMS}")
    return content.splitlines()
