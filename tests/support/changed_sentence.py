"""A changed sentence in a raw MELD tree, of those that candidates were asked for. Knows nothing of stages."""

import csv
from collections.abc import Collection
from pathlib import Path

from model.candidates.prompts import candidate_prompt


def change_one_sentence(raw: Path, prompts: Collection[str]) -> None:
    """Adds a word to the first sentence of train that one of `prompts` asks about, wherever it is said."""
    (path,) = raw.rglob("train_sent_emo.csv")
    with open(path, encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    spoken = table[0].index("Utterance")
    sentence = next(row[spoken] for row in table[1:] if candidate_prompt(row[spoken], "Sad") in prompts)
    for row in table:
        row[spoken] = f"{sentence} Truly." if row[spoken] == sentence else row[spoken]
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(table)
