"""Every label table whole, against one written down by target from the releases' own documentation.

MELD: Poria et al. 2019, table 2. MultiDialog: Park et al. 2024. Topical-Chat: Gopalakrishnan et al. 2019. IEMOCAP: Busso
et al. 2008 (the consensus files' three letters). RAVDESS: Livingstone and Russo 2018, the file name's third part. CREMA-D:
Cao et al. 2014, the file name's third part and the letters of summaryTable.csv. GoEmotions: Demszky et al. 2020, Ekman.
"""

import pytest

from storage.labels import EKMAN
from storage.readers.registry import DATASETS, dataset_named
from storage.settings import LabelPolicy

WRITTEN = """
target    multidialog  topical_chat                      meld      iemocap    ravdess  crema_d
angry     Angry        Angry                             anger     ang        05       ANG,A
disgust   Disgusting   Disgusted                         disgust   dis        07       DIS,D
fearful   Fear         Fearful                           fear      fea        06       FEA,F
happy     Happy        Happy                             joy       hap,exc    03       HAP,H
neutral   Neutral      Neutral,Curious_to_dive_deeper    neutral   neu        01,02    NEU,N
sad       Sad          Sad                               sadness   sad        04       SAD,S
surprise  Surprising   Surprised                         surprise  sur        08       -
-         -            -                                 -         fru,oth,xxx -       -
"""

GOEMOTIONS = {
    "anger": "angry",
    "disgust": "disgust",
    "fear": "fearful",
    "joy": "happy",
    "neutral": "neutral",
    "sadness": "sad",
    "surprise": "surprise",
}


def tables() -> dict[str, dict[str, str | None]]:
    """Dataset -> spelling -> target, of the text above."""
    head, *rows = [line.split() for line in WRITTEN.strip().splitlines()]
    return {
        dataset: {
            spelling.replace("_", " "): None if row[0] == "-" else row[0]
            for row in rows
            for spelling in row[column].split(",")
            if spelling != "-"
        }
        for column, dataset in enumerate(head)
        if column
    }


@pytest.mark.parametrize("dataset", sorted(tables()))
def test_the_whole_table(dataset):
    wanted = tables()[dataset]
    table = dataset_named(dataset).labels
    assert {spelling: table.target(spelling, "here") for spelling in wanted} == wanted
    assert set(table.spellings(LabelPolicy())) == {spelling.lower() for spelling in wanted}


def test_goemotions_words_are_the_same_seven():
    assert dict(EKMAN) == GOEMOTIONS


def test_every_table_has_targets_among_the_seven_alone():
    seven = {"angry", "disgust", "fearful", "happy", "neutral", "sad", "surprise"}
    for dataset in DATASETS:
        assert set(dataset.labels.spellings(LabelPolicy()).values()) <= {*seven, None}, dataset.name


@pytest.mark.parametrize(
    "setting, dataset, spelling",
    [
        ("iemocap_excited", "iemocap", "exc"),
        ("iemocap_frustrated", "iemocap", "fru"),
        ("ravdess_calm", "ravdess", "02"),
        ("topical_chat_curious", "topical_chat", "curious to dive deeper"),
    ],
)
def test_a_policy_moves_its_own_spelling_alone(setting, dataset, spelling):
    table = dataset_named(dataset).labels
    usual = table.spellings(LabelPolicy())
    for target in ("angry", None):
        changed = table.spellings(LabelPolicy(**{setting: target}))
        assert changed == {**usual, spelling: target}
