"""The label table against the releases' own spellings."""

import pytest

from storage.labels import EKMAN, LabelError
from storage.readers.registry import DATASETS, dataset_named
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
    ],
)
def test_spellings(dataset, raw, target):
    assert dataset_named(dataset).labels.target(raw, "here") == target


def test_every_target_is_one_of_the_seven():
    for dataset in DATASETS:
        assert dataset.labels.dataset == dataset.name
        assert set(dataset.labels.spellings(LabelPolicy()).values()) <= {*EMOTIONS, None}
    assert set(EKMAN.values()) == set(EMOTIONS)


def test_policy_is_a_setting():
    policy = LabelPolicy(iemocap_frustrated="angry", iemocap_excited=None)
    labels = dataset_named("iemocap").labels
    assert labels.target("fru", "here", policy) == "angry"
    assert labels.target("exc", "here", policy) is None


def test_unknown_spelling_names_the_place():
    with pytest.raises(LabelError, match=r"labels\.csv line 7: unknown meld emotion 'happy'"):
        dataset_named("meld").labels.target("happy", "labels.csv line 7")
