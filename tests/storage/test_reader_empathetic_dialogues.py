"""EmpatheticDialogues: small files written as the release writes them, and the defects that its issues report."""

from collections import Counter

import pytest

from storage.exchanges import cut_exchanges
from storage.filestat import content_digest
from storage.labels import LabelError
from storage.readers.empathetic_dialogues import SITUATIONS
from storage.readers.find import RawDataError, find_datasets, read_dataset
from storage.settings import DataSettings

HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"


def row(conversation, turn, text, situation="sentimental", speaker=None, more=""):
    return f"hit:0_conv:{conversation},{turn},{situation},I remember_comma_ once.,{speaker or turn % 2},{text},5|5|5_2|2|5,{more}"


def write(root, name, *rows, folder="empatheticdialogues"):
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / f"{name}.csv").write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")


def read_all(root, **settings):
    (raw,) = find_datasets(root)
    return read_dataset(raw, root, DataSettings(**settings), content_digest)


def test_a_line_is_a_row_whatever_its_quotes(tmp_path):
    """A reader of CSV that heeds quotes joins these lines into one."""
    write(
        tmp_path,
        "train",
        row(1, 1, 'He said "oh_comma_ no.'),
        row(1, 2, "Did he?"),
        row(1, 3, 'Yes" he did_comma_ a_pipe_b.'),
    )
    found = read_all(tmp_path)
    assert [(u.turn, u.speaker, u.text) for u in found.utterances] == [
        (1, "1", 'He said "oh, no.'), (2, "0", "Did he?"), (3, "1", 'Yes" he did, a|b.'),
    ]  # fmt: skip
    assert len(cut_exchanges(found.utterances)[0]) == 2 and not found.rejects


def test_the_label_is_of_the_situation(tmp_path):
    """It stands with the opening utterance, has no target, and gets one by the setting alone."""
    write(tmp_path, "test", row(1, 1, "Hi.", "joyful"), row(1, 2, "Ho.", "joyful"))
    assert [(u.emotion, u.emotion_raw) for u in read_all(tmp_path).utterances] == [
        (None, "joyful"),
        (None, None),
    ]
    mapped = read_all(tmp_path, labels={"map": {"empathetic_dialogues/joyful": "happy"}})
    assert [(u.emotion, u.emotion_raw) for u in mapped.utterances] == [("happy", "joyful"), (None, None)]
    write(tmp_path, "test", row(1, 1, "Hi.", "amused"))
    with pytest.raises(
        LabelError,
        match=r"test\.csv line 2: unknown empathetic_dialogues emotion 'amused'.*data\.labels\.map",
    ):
        read_all(tmp_path)
    assert len(SITUATIONS) == len(set(SITUATIONS)) == 32


def test_rows_whose_fields_are_shifted_are_rejected(tmp_path):
    rows = (
        row(1, 1, "Good."),
        "hit:0_conv:1,2,sentimental,prompt with, a real comma,0,Hi.,5|5,x,",
        "hit:0_conv:1,3,sentimental,short,0",
        "3,hit:0_conv:1,sentimental,turned,0,Hi.,5|5,",
        row(1, "x", "Hi.", speaker=1),
        row(1, 4, "  "),
        row(1, 1, "Again."),
    )
    write(tmp_path, "train", *rows)
    found = read_all(tmp_path)
    assert [u.text for u in found.utterances] == ["Good."]
    assert Counter(r.reason for r in found.rejects) == {"bad_row": 4, "empty_text": 1, "duplicate": 1}
    assert found.rows == len(rows)


def test_the_ninth_field_of_valid_and_test(tmp_path):
    candidates = "|".join(f"Reply {n}_comma_ really." for n in range(5000))
    write(tmp_path, "train", row(0, 1, "Hi."))
    write(tmp_path, "valid", row(1, 1, "Hi.", more="<NO>," + candidates), row(1, 2, "Ho."))
    write(tmp_path, "test", row(1, 1, "Hi.", more=","), row(2, 1, "Ha."), row(3, 1, "Hi.", more=",x,y"))
    found = read_all(tmp_path)
    assert Counter(u.split for u in found.utterances) == {"train": 1, "test": 2}
    # One conversation is in valid and test, one row has a tenth field.
    assert Counter((r.split, r.reason) for r in found.rejects) == {
        ("dev", "dialogue_in_two_splits"): 2, ("test", "bad_row"): 1,
    }  # fmt: skip


def test_three_files_anywhere_or_a_folder_of_that_name(tmp_path):
    write(tmp_path / "a", "train", row(1, 1, "Hi."), folder="elsewhere")
    with pytest.raises(RawDataError, match="no known dataset"):
        find_datasets(tmp_path / "a")
    for number, name in enumerate(("train", "valid", "test")):
        write(tmp_path / "a", name, row(number, 1, "Hi."), folder="elsewhere")
    assert len(read_all(tmp_path / "a").utterances) == 3
    write(tmp_path / "b", "train", row(1, 1, "Hi."), folder="Empathetic_Dialogues-main")
    assert any("no valid.csv" in note for note in read_all(tmp_path / "b").notes)


def test_another_table_of_that_name_is_refused(tmp_path):
    write(tmp_path, "train", row(1, 1, "Hi."))
    (tmp_path / "empatheticdialogues/train.csv").write_text("text,label\na,b\n")
    with pytest.raises(RawDataError, match=r"train\.csv: columns text, label; wanted conv_id"):
        read_all(tmp_path)
