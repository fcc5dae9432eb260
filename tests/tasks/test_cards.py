"""Data cards: counts by hand, and what is published beside what was read."""

import json
from pathlib import Path

import pytest

from storage.filestat import content_digest
from storage.readers.common import Dialogues
from storage.readers.find import find_datasets, read_dataset
from storage.readers.registry import DATASETS
from storage.settings import DataSettings
from storage.store import canonical
from storage.utterance import Reject, Utterance
from tasks.stages.utterances.cards import card_markdown, card_tables, make_card, verdict

MELD = Path(__file__).resolve().parents[2] / "../shared/data/meld"


def card_of(dataset, read, settings=None, synthetic=False):
    """A card as it comes back from the store, its keys sorted."""
    return json.loads(canonical(make_card(dataset, read, settings or DataSettings(), synthetic)))


def say(dialogue, turn, split="train", emotion="happy", raw="joy", seconds=None, dataset="meld"):
    return Utterance(dataset, split, dialogue, turn, f"S{turn % 2}", "Hi.", emotion, raw, seconds=seconds)


def table(card, title, exchanges=None):
    return next((t.rows for t in card_tables(card, exchanges or {}) if t.title == title), [])


def test_counts_by_hand():
    said = [say("0", t, seconds=[0.2, 2.0, 4.0, 31.0][t]) for t in range(4)]
    said += [say("1", 0, emotion=None, raw="xxx"), say("0", 0, "dev", "sad", "sadness")]
    away = [
        Reject("meld", "train", "1", 1, "empty_text", "line 7"),
        Reject("meld", "train", "", None, "bad_row", "line 8"),
    ]
    worn = [Reject("meld", "dev", "0", 0, "known_bad", "media withdrawn")] * 2
    card = card_of("meld", Dialogues(said, away, worn, ["a note"], rows=8), DataSettings(), synthetic=False)
    cut = {"train": {"exchanges": 3, "gap": 1}}
    assert table(card, "What was read", cut) == [
        ("train", 2, 5, 2, 0, 0, 3, 0, 1),
        ("dev", 1, 1, 1, 0, 0, 0, 0, 0),
    ]
    assert table(card, "Emotions")[0] == ("train", 0, 0, 0, 4, 0, 0, 0, 1)
    assert table(card, "Turns of a dialogue") == [("train", 1, 2.5, 4, 1), ("dev", 1, 1.0, 1, 1)]
    assert table(card, "Lengths as the release states them") == [("train", 4, 0.01, 9.3, 3.0, 1, 1)]
    assert table(card, "Rows turned away") == [
        ("train", "bad_row", 1, "line 8"),
        ("train", "empty_text", 1, "line 7"),
    ]
    assert table(card, "Faults that cost no row") == [("dev", "known_bad", 2, "media withdrawn")]
    assert ("train", "dialogues", 1039, 2, "-1037") in table(card, "Beside what is published")
    page = card_markdown("Data card: meld", card, cut)
    assert "8 rows read, 2 turned away." in page and "| train | bad_row | 1 | line 8 |" in page


def test_single_clips_are_no_dialogues():
    said = [say(name, 0, dataset="ravdess", raw="03") for name in "abc"]
    card = card_of("ravdess", Dialogues(said, rows=3), DataSettings(), synthetic=False)
    assert table(card, "What was read")[0][1:3] == (0, 3)
    assert not table(card, "Turns of a dialogue")


@pytest.mark.parametrize(
    ("settings", "synthetic", "why"),
    [(DataSettings(dialogues=5), False, "subset"), (DataSettings(), True, "sample is not the corpus")],
)
def test_what_is_not_the_corpus_is_not_compared(settings, synthetic, why):
    card = card_of("meld", Dialogues([say("0", 0)], rows=1), settings, synthetic)
    assert not table(card, "Beside what is published") and why in verdict(card)


def test_a_cell_cannot_break_the_table():
    away = [Reject("meld", "train", "", None, "bad_row", "a|b\nc")]
    card = card_of("meld", Dialogues([say("0", 0)], away, rows=2), DataSettings(), False)
    assert "| train | bad_row | 1 | a\\|b c |" in card_markdown("t", card, {})


def test_published_labels_add_up_to_the_published_utterances():
    for dataset in DATASETS:
        for part in dataset.published:
            if part.labels:
                assert sum(part.labels.values()) == part.utterances, (dataset.name, part.name)


@pytest.mark.skipif(not MELD.is_dir(), reason="the shared MELD label files are not here")
def test_real_meld_differs_from_its_page_by_one_dialogue():
    (raw,) = find_datasets(MELD)
    read = read_dataset(raw, MELD, DataSettings(), content_digest)
    card = card_of("meld", read, DataSettings(), synthetic=False)
    rows = {row[:2]: row[2:] for row in table(card, "Beside what is published") if row[0] != "test"}
    assert rows == {
        ("train", "dialogues"): (1039, 1038, "-1"),
        ("train", "utterances"): (9989, 9989, "none"),
        ("dev", "dialogues"): (114, 114, "none"),
        ("dev", "utterances"): (1109, 1109, "none"),
    }
    assert [row[1:] for row in table(card, "Turns of a dialogue")] == [(1, 9.62, 24, 70), (1, 9.73, 23, 6)]
