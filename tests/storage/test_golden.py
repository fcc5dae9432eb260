"""Known counts of the real text files that no reader of this project takes in, under its label table."""

import csv
from pathlib import Path

import pytest

from storage.labels import EKMAN

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"

needs_goemotions = pytest.mark.skipif(
    not (SHARED / "goemotions").is_dir(), reason="the shared GoEmotions files are not here"
)


@needs_goemotions
def test_goemotions():
    """A CSV-quoted TSV: three fields a row, 7,102 rows of several labels."""
    with open(SHARED / "goemotions/train.tsv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert len(rows) == 43_410 and {len(row) for row in rows} == {3}
    assert sum("," in row[1] for row in rows) == 7102
    words = (SHARED / "goemotions/ekman/labels.txt").read_text().split()
    assert len({EKMAN[word] for word in words}) == 7
