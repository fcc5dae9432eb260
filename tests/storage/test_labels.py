"""The label table against the releases' own spellings."""

import pytest

from storage.labels import LABELS, LabelError, label_table, target_emotion
from storage.settings import LabelPolicy
from storage.utterance import EMOTIONS


@pytest.mark.parametrize(
    ("dataset", "raw", "target"),
    [
        ("multidialog", "Disgusting", "disgust"),
        ("multidialog", " surprising ", "surprise"),
        ("multidialog", "Fear", "fearful"),
        ("meld", "joy", "happy"),
        ("meld", "sadness", "sad"),
        ("iemocap", "exc", "happy"),
        ("iemocap", "hap", "happy"),
        ("iemocap", "fru", None),
        ("iemocap", "xxx", None),
        ("iemocap", "oth", None),
        ("ravdess", "02", "neutral"),
        ("crema_d", "FEA", "fearful"),
        ("topical_chat", "Curious to dive deeper", "neutral"),
        ("goemotions", "fear", "fearful"),
    ],
)
def test_spellings(dataset, raw, target):
    assert target_emotion(dataset, raw, "here") == target


def test_every_target_is_one_of_the_seven():
    for dataset in LABELS:
        assert set(label_table(dataset, LabelPolicy()).values()) <= {*EMOTIONS, None}


def test_policy_is_a_setting():
    policy = LabelPolicy(iemocap_frustrated="angry", iemocap_excited=None)
    assert target_emotion("iemocap", "fru", "here", policy) == "angry"
    assert target_emotion("iemocap", "exc", "here", policy) is None


def test_unknown_spelling_names_the_place():
    with pytest.raises(LabelError, match=r"labels\.csv line 7: unknown meld emotion 'happy'"):
        target_emotion("meld", "happy", "labels.csv line 7")
    with pytest.raises(LabelError, match="dailydialog"):
        target_emotion("dailydialog", "joy", "here")
