"""The table of known-bad items: what it does to a row, and that every entry can be met."""

from collections import Counter

import pytest

from storage.readers.crema_d import NAME
from storage.readers.known_bad import KnownBad, withdraw
from storage.readers.ravdess import TRIAL
from storage.readers.registry import DATASETS
from storage.utterance import SPLITS, Utterance


def say(dialogue, turn, split="train", media=True):
    path = f"{dialogue}-{turn}.mp4" if media else None
    return Utterance("meld", split, dialogue, turn, "A", "Hi.", "happy", "joy", path, path, media_digest="m")


def entry(action, turn=0, split="train"):
    return (KnownBad(split, "1", turn, action, "a reason", "an issue"),)


@pytest.mark.parametrize(
    ("action", "video", "audio", "reason"),
    [
        ("media", None, None, "known_bad"),
        ("video", None, "1-0.mp4", "known_bad"),
        ("audio", "1-0.mp4", None, "known_bad"),
        ("flag", "1-0.mp4", "1-0.mp4", "known_bad_flagged"),
    ],
)
def test_actions(action, video, audio, reason):
    (kept,), (told,) = withdraw([say("1", 0)], entry(action))
    assert (kept.video_path, kept.audio_path, kept.text) == (video, audio, "Hi.")
    assert told.reason == reason and "a reason (an issue)" in told.detail and told.turn == 0


def test_only_the_row_that_is_named():
    rows = [say("1", 0, "dev"), say("1", 1), say("2", 0)]
    assert withdraw(rows, entry("media")) == (rows, [])
    kept, told = withdraw(rows, entry("media", turn=None, split=None))
    assert [u.video_path for u in kept] == [None, None, "2-0.mp4"] and len(told) == 2


def test_a_missing_clip_is_explained_where_others_lie_there():
    rows = [say("1", 0, media=False), say("2", 0)]
    kept, told = withdraw(rows, entry("missing"))
    assert kept == rows and [t.reason for t in told] == ["known_missing"]
    assert withdraw(rows[:1], entry("missing"))[1] == []  # text alone: nothing is missing
    assert withdraw([say("1", 0)], entry("missing")) == ([say("1", 0)], [])


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda d: d.name)
def test_entries_name_rows_that_can_be(dataset):
    for bad in dataset.known_bad:
        assert bad.reason and bad.source and bad.split in (None, *SPLITS)
        if dataset.name == "crema_d":
            assert NAME.fullmatch(bad.dialogue_id)
        elif dataset.name == "ravdess":
            assert TRIAL.fullmatch(bad.dialogue_id)
        else:
            assert dataset.name == "meld" and bad.dialogue_id.isdigit()
    assert len({(b.split, b.dialogue_id, b.turn) for b in dataset.known_bad}) == len(dataset.known_bad)


def test_the_tables_are_those_that_were_reported():
    """How many of each action: counted by hand in the reports."""
    actions = {d.name: Counter(b.action for b in d.known_bad) for d in DATASETS if d.known_bad}
    assert actions == {
        "meld": {"media": 15, "missing": 1, "flag": 9},
        "crema_d": {"media": 2, "flag": 2},
        "ravdess": {"audio": 1, "flag": 6},
    }
