"""DailyDialog: small trees in the layout of the release, with the defects that its files have."""

from collections import Counter

import pytest

from storage.exchanges import cut_exchanges
from storage.filestat import content_digest
from storage.labels import LabelError
from storage.readers.find import RawDataError, find_datasets, read_dataset
from storage.settings import DataSettings


def write(root, split, dialogues, labels=None, suffix=None):
    """split "" : the file of all dialogues."""
    root.mkdir(parents=True, exist_ok=True)
    name = f"_{split}" if split else ""
    (root / f"dialogues{name or '_text'}.txt").write_text("\n".join(dialogues) + "\n", encoding="utf-8")
    if labels is not None:
        (root / f"dialogues_emotion{name}.txt").write_text("\n".join(labels) + "\n")


def read_all(root, **settings):
    (raw,) = find_datasets(root)
    return read_dataset(raw, root, DataSettings(**settings), content_digest)


TALK = "The kitchen stinks . __eou__ I ’ ll throw out the garbage . __eou__"


def test_the_splits_as_released(tmp_path):
    for split, place in (("train", "train"), ("validation", "validation"), ("test", "test")):
        write(
            tmp_path / place, split, [f"I am {split} . __eou__ So am I . __eou__ Good . __eou__"], ["0 4 6 "]
        )
    write(tmp_path, "", ["whatever __eou__"], ["0"])
    found = read_all(tmp_path)
    assert Counter(u.split for u in found.utterances) == {"train": 3, "dev": 3, "test": 3}
    assert [(u.turn, u.speaker, u.text, u.emotion, u.emotion_raw) for u in found.utterances if u.split == "dev"] == [
        (0, "A", "I am validation .", "neutral", "0"), (1, "B", "So am I .", "happy", "4"),
        (2, "A", "Good .", "surprise", "6"),
    ]  # fmt: skip
    assert len(cut_exchanges(found.utterances)[0]) == 6
    assert any("dialogues_text.txt not read" in note for note in found.notes)


def test_all_labels_and_the_one_that_says_none(tmp_path):
    write(tmp_path, "test", [" __eou__ ".join("abcdefg") + " __eou__"], ["0 1 2 3 4 5 6"])
    assert [u.emotion for u in read_all(tmp_path).utterances] == [
        "neutral", "angry", "disgust", "fearful", "happy", "sad", "surprise",
    ]  # fmt: skip
    no_emotion = read_all(tmp_path, labels={"map": {"dailydialog/0": None}})
    assert no_emotion.utterances[0].emotion is None
    write(tmp_path, "test", ["a __eou__ b __eou__"], ["0 7"])
    with pytest.raises(
        LabelError,
        match=r"dialogues_emotion_test\.txt line 1: unknown dailydialog emotion '7'.*data\.labels\.map",
    ):
        read_all(tmp_path)


def test_labels_that_do_not_fit_their_dialogue_are_not_taken(tmp_path):
    """More or fewer numbers than turns: nobody can say which turn they are of."""
    lines = [
        TALK,
        TALK.replace("kitchen", "room"),
        "One . __eou__ __eou__ Three . __eou__",
        "No mark at the end",
        "",
    ]
    write(tmp_path, "test", [*lines, "Last . __eou__"], ["0 1", "0 0 0", "0 3 4", "2", "", "5", "1 1"])
    found = read_all(tmp_path)
    by_dialogue = {}
    for u in found.utterances:
        by_dialogue.setdefault(u.dialogue_id, []).append((u.turn, u.text, u.emotion))
    assert by_dialogue["1"] == [
        (0, "The kitchen stinks .", "neutral"),
        (1, "I ’ ll throw out the garbage .", "angry"),
    ]
    assert [row[2] for row in by_dialogue["2"]] == [None, None]
    assert by_dialogue["3"] == [(0, "One .", "neutral"), (2, "Three .", "happy")]
    assert by_dialogue["4"] == [(0, "No mark at the end", "disgust")]
    assert by_dialogue["6"] == [(0, "Last .", "sad")]
    assert [(r.reason, r.dialogue_id, r.turn) for r in found.rejects] == [
        ("empty_text", "3", 1), ("empty_dialogue", "5", None),
    ]  # fmt: skip
    assert [(d.reason, d.dialogue_id) for d in found.defects] == [
        ("label_without_text", ""), ("labels_do_not_fit", "2"),
    ]  # fmt: skip


def test_emotions_that_end_early_and_none_at_all(tmp_path):
    write(tmp_path, "test", [TALK, TALK.replace("kitchen", "room")], ["0 0"])
    assert [(d.reason, d.dialogue_id) for d in read_all(tmp_path).defects] == [("labels_do_not_fit", "2")]
    (tmp_path / "dialogues_emotion_test.txt").unlink()
    found = read_all(tmp_path)
    assert {u.emotion for u in found.utterances} == {None} and not found.defects
    assert any("no labels" in note for note in found.notes)


def test_a_dialogue_of_test_is_taken_out_of_train_and_dev(tmp_path):
    """The release repeats dialogues in its splits, word for word but for case and blanks."""
    write(tmp_path, "train", [TALK, "Mine . __eou__ Yours . __eou__"])
    write(tmp_path, "validation", [TALK.upper().replace("__EOU__", "__eou__"), "Ours . __eou__"])
    write(tmp_path, "test", [TALK])
    found = read_all(tmp_path)
    assert {(u.split, u.dialogue_id) for u in found.utterances} == {
        ("train", "2"),
        ("dev", "2"),
        ("test", "1"),
    }
    assert Counter((r.split, r.reason) for r in found.rejects) == {
        ("train", "dialogue_in_two_splits"): 2, ("dev", "dialogue_in_two_splits"): 2,
    }  # fmt: skip


def test_the_whole_file_is_split_by_a_seeded_hash(tmp_path):
    write(tmp_path, "", [f"Line {n} . __eou__ Yes . __eou__" for n in range(30)], ["0 0"] * 30)
    found = read_all(tmp_path)
    splits = {u.dialogue_id: u.split for u in found.utterances}
    assert Counter(splits.values()) == {"train": 24, "dev": 3, "test": 3}
    assert (
        Counter({u.dialogue_id: u.split for u in read_all(tmp_path, test_share=0.5).utterances}.values())[
            "test"
        ]
        == 15
    )
    (tmp_path / "train.zip").write_text("x")
    with pytest.raises(RawDataError, match=r"train\.zip is still packed; unzip"):
        find_datasets(tmp_path)
