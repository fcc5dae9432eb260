"""A sample tree whose sentences, speakers and dialogue names try to do something to the terminal they are shown on."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

from storage.sample.layout import write_sample

TEXTS = (
    "colours \x1b[31mred\x1b[0m and a title \x1b]0;taken\x07 set",
    "clear \x1b[2J\x1b[H the screen",
    "backwards \u202egnp.exe\u202c and hidden \u200b\u2066here\u2069",
    "eight bits \x9b31m and \x85 the next line",
    "[bold]markup[/bold] [link=http://evil.example]here[/link] :warning:",
    "a line \u2028 of another kind, a rubout \x7f and a bell \x07",
)
SPEAKERS = ("B\x1b[7mob", "Al\u202ei")
TALK = "[bold]talk[link=evil]"
"""A reader takes no name of a conversation that cannot be printed; this one is markup."""
REJECTED = "talk\x1b]0;taken\x07\u202e"


def write_hostile_sample(root: Path) -> None:
    """MELD with such sentences and speakers, and one MultiDialog conversation of a name like that; text alone."""
    write_sample(root, media=False, dialogues=2, turns=10)
    number = 0
    for path in sorted(root.rglob("*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["Utterance"] = f"{TEXTS[number % len(TEXTS)]} {number}."
            row["Speaker"] = SPEAKERS[number % 2]
            number += 1
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    talk = root / "MultiDialog" / "metadata" / "train" / "train_metadata_0001.jsonl"
    with open(talk, "w", encoding="utf-8") as file:
        for turn in range(6):
            name = f"{TALK}/{TALK}_{turn}{'ab'[turn % 2]}.wav"
            line = {
                "file_name": name,
                "conv_id": TALK,
                "utterance_id": turn,
                "from": ("gpt", "human")[turn % 2],
            }
            line |= {"value": f"{TEXTS[turn]} {turn}", "emotion": "Neutral", "original_full_path": name}
            file.write(json.dumps(line) + "\n")
        file.write(json.dumps(line | {"conv_id": REJECTED, "emotion": f"Neutral{REJECTED}"}) + "\n")


def unreadable(shown: bytes) -> set[str]:
    """The characters in what was shown that are none to be read; a line's end and rich's own styles left out."""
    return {
        c
        for c in shown.decode("utf-8")
        if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    }
