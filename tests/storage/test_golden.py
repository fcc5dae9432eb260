"""Known counts of the real text files that no reader of this project takes in, under its label table."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from storage.labels import target_emotion
from storage.settings import LabelPolicy

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"

needs_scripts = pytest.mark.skipif(
    not (SHARED / "topical_chat").is_dir(), reason="the shared Topical-Chat scripts are not here"
)
needs_goemotions = pytest.mark.skipif(
    not (SHARED / "goemotions").is_dir(), reason="the shared GoEmotions files are not here"
)


@needs_scripts
@pytest.mark.parametrize(
    ("name", "turns", "angry", "curious"),
    [("valid_freq", 11681, 105, 5027), ("valid_rare", 11692, 47, 4836)],
)
def test_topical_chat(name, turns, angry, curious):
    """Every conversation alternates from agent_1, and every spelling is in the table, curiosity by policy."""
    conversations = json.loads((SHARED / "topical_chat" / f"{name}.json").read_text())
    said = [turn for c in conversations.values() for turn in c["content"]]
    assert (len(conversations), len(said)) == (539, turns)
    for conversation in conversations.values():
        agents = [turn["agent"] for turn in conversation["content"]]
        assert agents == [f"agent_{1 + place % 2}" for place in range(len(agents))]

    def targets(policy=None):
        return Counter(target_emotion("topical_chat", t["sentiment"], name, policy) for t in said)

    assert targets()["angry"] == angry
    assert targets(LabelPolicy(topical_chat_curious=None))[None] == curious


@needs_goemotions
def test_goemotions():
    """A CSV-quoted TSV: three fields a row, 7,102 rows of several labels."""
    with open(SHARED / "goemotions/train.tsv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert len(rows) == 43_410 and {len(row) for row in rows} == {3}
    assert sum("," in row[1] for row in rows) == 7102
    words = (SHARED / "goemotions/ekman/labels.txt").read_text().split()
    assert len({target_emotion("goemotions", word, "labels.txt") for word in words}) == 7
