"""IEMOCAP: small trees in the layout of the release, with its traps."""

from collections import Counter

import pytest

from storage.filestat import content_digest
from storage.labels import LabelError
from storage.readers.find import RawDataError, find_datasets, read_dataset, source_files
from storage.readers.iemocap import TAGS
from storage.settings import DataSettings, LabelPolicy


def touch(path, content=b"media"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_dialogue(root, dialogue, turns, extra=(), labels=None):
    """turns: (letter and number, start, end, text, label) in file order; labels go F first, then M."""
    session = root / f"Session{dialogue[4]}"
    lines = [f"{dialogue}_{name} [{start:08.4f}-{end:08.4f}]: {text}" for name, start, end, text, _ in turns]
    touch(session / f"dialog/transcriptions/{dialogue}.txt", "\n".join([*lines, *extra]) + "\n")
    blocks = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for name, start, end, _, label in sorted(turns, key=lambda turn: turn[0][0]):
        if label is not None:
            blocks.append(f"[{start:.4f} - {end:.4f}]\t{dialogue}_{name}\t{label}\t[2.5000, 2.5000, 2.5000]")
            blocks += ["C-E2:\tNeutral;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]
    text = "\n".join(blocks) if labels is None else labels
    touch(session / f"dialog/EmoEvaluation/{dialogue}.txt", text + "\n")


TURNS = [
    ("F000", 6.29, 8.23, "Excuse me.", "neu"),
    ("M000", 7.57, 10.47, "Do you have your forms: yes?", "fru"),
    ("F001", 12.5, 13.0, "[LAUGHTER]", "exc"),
    ("M001", 12.1, 14.0, "No.", "xxx"),
]


def read_all(root, **settings):
    (raw,) = find_datasets(root)
    return read_dataset(raw, root, DataSettings(**settings), content_digest)


def test_order_speaker_and_labels(tmp_path):
    write_dialogue(tmp_path / "IEMOCAP_full_release", "Ses01F_impro01", TURNS)
    result = read_all(tmp_path)
    assert [(u.turn, u.speaker, u.text, u.emotion, u.emotion_raw) for u in result.utterances] == [
        (0, "Ses01F", "Excuse me.", "neutral", "neu"),
        (1, "Ses01M", "Do you have your forms: yes?", None, "fru"),
        (2, "Ses01M", "No.", None, "xxx"),
        (3, "Ses01F", "[LAUGHTER]", "happy", "exc"),
    ]
    angry = read_all(tmp_path, labels=LabelPolicy(iemocap_frustrated="angry"))
    assert angry.utterances[1].emotion == "angry"


@pytest.mark.parametrize(
    ("dialogue", "female_side"), [("Ses01F_impro01", "left"), ("Ses01M_impro01", "right")]
)
def test_media_and_side(tmp_path, dialogue, female_side):
    session = tmp_path / "Session1"
    write_dialogue(tmp_path, dialogue, TURNS)
    touch(session / f"dialog/avi/DivX/{dialogue}.avi")
    touch(session / f"dialog/avi/DivX/._{dialogue}.avi")
    touch(session / f"dialog/wav/{dialogue}.wav")
    for name in ("F000", "M000", "F001"):
        touch(session / f"sentences/wav/{dialogue}/{dialogue}_{name}.wav", name)
        touch(session / f"sentences/wav/{dialogue}/._{dialogue}_{name}.wav")
    result = read_all(tmp_path)
    first, second, third, _ = result.utterances
    assert first.audio_path == f"Session1/sentences/wav/{dialogue}/{dialogue}_F000.wav"
    assert first.video_path == f"Session1/dialog/avi/DivX/{dialogue}.avi"
    assert (first.start, first.end, first.side) == (6.29, 8.23, female_side)
    assert second.side != first.side
    assert third.audio_path is None and any("1 utterances without audio" in note for note in result.notes)
    assert len({u.media_digest for u in result.utterances}) == 4
    (raw,) = find_datasets(tmp_path)
    assert len(source_files(raw, tmp_path)) == 2 + 1 + 3


def test_media_digest_follows_content_and_span(tmp_path):
    write_dialogue(tmp_path, "Ses01F_impro01", TURNS)
    avi = tmp_path / "Session1/dialog/avi/DivX/Ses01F_impro01.avi"
    touch(avi, b"one")
    before = [u.media_digest for u in read_all(tmp_path).utterances]
    touch(avi, b"two")
    assert not set(before) & {u.media_digest for u in read_all(tmp_path).utterances}


def test_one_dialogue_name_may_begin_another(tmp_path):
    write_dialogue(tmp_path, "Ses05M_script01_1", TURNS[:2])
    write_dialogue(tmp_path, "Ses05M_script01_1b", TURNS)
    result = read_all(tmp_path)
    assert Counter(u.dialogue_id for u in result.utterances) == {
        "Ses05M_script01_1": 2, "Ses05M_script01_1b": 4,
    }  # fmt: skip
    assert not result.rejects


def test_lines_that_are_no_turns(tmp_path):
    extra = [
        "Ses01F_impro01_MXX0 [015.0000-016.0000]: Hm.",
        "M: Well.",
        "Ses02F_impro01_F000 [001.0000-002.0000]: Not mine.",
        "Ses01F_impro01_F000 [017.0000-018.0000]: Again.",
        "Ses01F_impro01_F002 [017.0000-018.0000]:   ",
    ]
    write_dialogue(tmp_path, "Ses01F_impro01", TURNS, extra)
    touch(tmp_path / "Session1/dialog/transcriptions/._Ses01F_impro01.txt", b"\x00\x05\x16")
    evaluation = tmp_path / "Session1/dialog/EmoEvaluation"
    touch(evaluation / "Categorical/Ses01F_impro01_e1_cat.txt", "[1.0 - 2.0]\tnonsense")
    result = read_all(tmp_path)
    assert len(result.utterances) == 4
    assert sorted(r.reason for r in result.rejects) == [
        "duplicate", "empty_text", "foreign_id", "junk_line", "xx_id",
    ]  # fmt: skip
    assert all(r.dialogue_id == "Ses01F_impro01" and "line" in r.detail for r in result.rejects)


def test_labels_without_text_and_text_without_label(tmp_path):
    labels = (
        "[6.2900 - 8.2300]\tSes01F_impro01_F000\tneu\t[2.5000, 2.5000, 2.5000]\n"
        "[1.0000 - 2.0000]\tSes01F_impro01_F009\tneu\t[2.5000, 2.5000, 2.5000]\n"
        "[1.0000 - 2.0000]\tSes01F_impro01_M000\n"
    )
    write_dialogue(tmp_path, "Ses01F_impro01", TURNS, labels=labels)
    result = read_all(tmp_path)
    assert [u.emotion_raw for u in result.utterances] == ["neu", None, None, None]
    assert sorted(r.reason for r in result.defects) == ["bad_label_line", "label_without_text"]
    assert not result.rejects


def test_unknown_label_names_the_line(tmp_path):
    write_dialogue(tmp_path, "Ses01F_impro01", [("F000", 1.0, 2.0, "Hi.", "joy")])
    with pytest.raises(LabelError, match=r"EmoEvaluation/Ses01F_impro01\.txt line 3"):
        read_all(tmp_path)


def test_splits(tmp_path):
    for number in range(30):
        write_dialogue(tmp_path, f"Ses01F_impro{number:02}", TURNS[:1])
    splits = {u.dialogue_id: u.split for u in read_all(tmp_path).utterances}
    assert Counter(splits.values()) == {"train": 24, "dev": 3, "test": 3}
    assert splits == {u.dialogue_id: u.split for u in read_all(tmp_path).utterances}
    assert splits != {u.dialogue_id: u.split for u in read_all(tmp_path, seed=1).utterances}
    small = read_all(tmp_path, dialogues=3)
    assert Counter(u.split for u in small.utterances) == {"train": 1, "dev": 1, "test": 1}


def test_leaving_one_session_out_leaves_its_speakers_out(tmp_path):
    for session in range(1, 6):
        for number in range(4):
            write_dialogue(tmp_path, f"Ses0{session}F_impro{number:02}", TURNS)
    result = read_all(tmp_path, iemocap_test_session=5)
    speakers = {
        split: {u.speaker for u in result.utterances if u.split == split}
        for split in ("train", "dev", "test")
    }
    assert speakers["test"] == {"Ses05F", "Ses05M"}
    assert not speakers["test"] & (speakers["train"] | speakers["dev"]) and speakers["dev"]
    assert len({u.dialogue_id for u in result.utterances if u.split == "test"}) == 4
    with pytest.raises(RawDataError, match="no Session3"):
        read_all(tmp_path, iemocap_test_session=3, dialogues=1)


def test_ninety_ten_by_dialogue(tmp_path):
    """151 dialogues as in the release: 15 are test, and no dialogue is torn apart."""
    for number in range(151):
        write_dialogue(tmp_path, f"Ses0{1 + number % 5}F_impro{number // 5:02}", TURNS[:2])
    result = read_all(tmp_path)
    splits = {}
    for u in result.utterances:
        splits.setdefault(u.dialogue_id, set()).add(u.split)
    assert all(len(found) == 1 for found in splits.values())
    assert Counter(min(found) for found in splits.values()) == {"train": 122, "dev": 14, "test": 15}


def test_times_ties_and_overlaps(tmp_path):
    turns = [
        ("F000", 1.0, 5.0, "Long.", "neu"),
        ("M000", 1.0, 3.0, "Short, at the same time.", "neu"),
        ("M001", 1.0, 3.0, "Tied: as in the file.", "neu"),
        ("F001", 0.5, 9.0, "Over all of them.", "neu"),
        ("F002", 4.0, 3.0, "Ends before it starts.", "neu"),
    ]
    write_dialogue(tmp_path, "Ses01F_impro01", turns)
    result = read_all(tmp_path)
    assert [u.text for u in result.utterances] == [
        "Over all of them.", "Short, at the same time.", "Tied: as in the file.", "Long.",
    ]  # fmt: skip
    assert [u.seconds for u in result.utterances] == [8.5, 2.0, 2.0, 4.0]
    assert [r.reason for r in result.rejects] == ["ends_before_it_starts"]
    assert [r.reason for r in result.defects] == ["label_without_text"]


def test_a_line_ends_at_line_ends_only(tmp_path):
    write_dialogue(
        tmp_path, "Ses01F_impro01", [("F000", 1.0, 2.0, "One\u2028turn\x0bonly: yes]: no.", "neu")]
    )
    (u,) = read_all(tmp_path).utterances
    assert u.text == "One\u2028turn\x0bonly: yes]: no."


def test_sounds_alone_are_kept_and_counted(tmp_path):
    write_dialogue(tmp_path, "Ses01F_impro01", TURNS)
    assert any("1 utterances are sounds alone" in note for note in read_all(tmp_path).notes)


def test_copies_by_session(tmp_path):
    write_dialogue(tmp_path, "Ses01F_impro01", TURNS)
    write_dialogue(tmp_path, "Ses02F_impro01", TURNS)
    write_dialogue(tmp_path / "copy", "Ses02F_impro01", TURNS)
    result = read_all(tmp_path)
    assert len(result.utterances) == 8
    assert any("copy/Session2" in note for note in result.notes)
    write_dialogue(tmp_path / "copy", "Ses02F_impro01", TURNS[:3])
    with pytest.raises(RawDataError, match="copy/Session2 and Session2"):
        read_all(tmp_path)


def test_many_blanks_between_sounds_take_no_time():
    """Blanks that two parts of a pattern may both take are tried in every way: 3^40 of them here."""
    import time

    begin = time.process_time()
    assert TAGS.fullmatch("[A]  " * 40 + "x") is None and TAGS.fullmatch(" [LAUGHTER]  [BREATHING] ")
    assert time.process_time() - begin < 1
