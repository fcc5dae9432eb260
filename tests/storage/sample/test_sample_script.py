"""The written dialogues keep the promises that the rest of the project builds on."""

from collections import Counter

import pytest

from storage.sample.script import IEMOCAP, MELD, MULTIDIALOG, digest_seed, load_scripts
from storage.utterance import EMOTIONS


@pytest.fixture(scope="module")
def scripts():
    return load_scripts()


def test_size(scripts):
    lengths = [len(s.lines) for s in scripts]
    assert len(scripts) >= 42
    assert 480 <= sum(lengths) <= 560
    assert min(lengths) >= 6 and max(lengths) <= 24
    assert sum(length >= 20 for length in lengths) >= 4


def test_parts(scripts):
    parts = Counter((s.dataset, s.split) for s in scripts)
    assert parts == {
        (MELD, "train"): 14,
        (MELD, "dev"): 3,
        (MELD, "test"): 5,
        (MULTIDIALOG, "train"): 7,
        (MULTIDIALOG, "test_freq"): 3,
        (IEMOCAP, None): 10,
    }
    assert len({(s.dataset, s.split, s.dialogue_id) for s in scripts}) == len(scripts)


def test_meld_ids_restart_in_every_split(scripts):
    for split in ("train", "dev", "test"):
        ids = [int(s.dialogue_id) for s in scripts if (s.dataset, s.split) == (MELD, split)]
        assert ids == list(range(len(ids)))


def test_emotions(scripts):
    spoken = Counter(line.emotion for s in scripts for line in s.lines)
    filmed = Counter(line.emotion for s in scripts if s.media for line in s.lines)
    assert all(spoken[emotion] >= 40 and filmed[emotion] >= 12 for emotion in EMOTIONS)
    special = {(s.dataset, line.emotion) for s in scripts for line in s.lines if line.emotion not in EMOTIONS}
    assert special == {(IEMOCAP, "excited"), (IEMOCAP, "frustrated"), (IEMOCAP, "undecided")}


def test_media_everywhere(scripts):
    filmed = [s for s in scripts if s.media]
    assert 165 <= sum(len(s.lines) for s in filmed) <= 200
    assert {(s.dataset, s.split) for s in filmed} == {(s.dataset, s.split) for s in scripts}
    assert {s.dialogue_id[:5] for s in filmed if s.dataset == IEMOCAP} == {"Ses01", "Ses02", "Ses03"}


def test_enough_is_tested_on_for_an_interval(scripts):
    tested = [s for s in scripts if s.media and s.split in ("test", "test_freq")]
    labels = Counter(line.emotion for s in tested for line in s.lines)
    assert len(tested) >= 6 and sum(labels.values()) >= 60
    assert max(labels.values()) / sum(labels.values()) < 0.25 and min(labels.values()) >= 6


def test_text(scripts):
    texts = [line.text for s in scripts for line in s.lines]
    assert len({text.casefold() for text in texts}) == len(texts)
    assert all(4 <= len(text.split()) <= 20 for text in texts)
    assert all(text.isascii() and text == text.strip() for text in texts)


def test_speakers(scripts):
    pairs = [(a.speaker, b.speaker) for s in scripts for a, b in zip(s.lines, s.lines[1:], strict=False)]
    assert sum(a == b for a, b in pairs) / len(pairs) < 0.05
    voices = {s.dataset: set() for s in scripts}
    for script in scripts:
        assert len({line.speaker for line in script.lines}) >= 2
        voices[script.dataset] |= {line.speaker for line in script.lines}
    assert voices[IEMOCAP] == {"F", "M"}
    assert voices[MULTIDIALOG] <= set("abcdefghijkl")
    assert sum(len({line.speaker for line in s.lines}) > 2 for s in scripts) >= 5


def test_subset_takes_filmed_dialogues_first():
    subset = load_scripts(per_split=1, turns=3)
    assert len(subset) == 6
    assert all(s.media and len(s.lines) == 3 for s in subset)


def test_digest_seed_separates_its_parts():
    assert digest_seed("a", 1) == digest_seed("a", 1)
    assert digest_seed("ab", "c") != digest_seed("a", "bc")
