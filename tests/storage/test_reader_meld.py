"""MELD: the golden values of the real label files, and small trees in the release's layouts."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest

from storage.exchanges import cut_exchanges
from storage.filestat import content_digest
from storage.labels import LabelError
from storage.readers.find import RawDataError, find_datasets, read_dataset, source_files
from storage.readers.meld import stated_seconds
from storage.settings import DataSettings

SHARED = Path(__file__).resolve().parents[2] / "../shared/data/meld"
HEADER = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
)
EPISODES = {"train": 1, "dev": 2, "test": 3}

needs_meld = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared MELD label files are not here")


def read_all(root, settings=None):
    (raw,) = find_datasets(root)
    return read_dataset(raw, root, settings or DataSettings(), content_digest)


@pytest.fixture(scope="module")
def real():
    return read_all(SHARED)


def write_labels(path, rows, header=HEADER):
    """rows: (utterance, speaker, emotion, dialogue, turn). No two clips show the same seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header]
    episode = EPISODES[path.name.partition("_")[0]]
    for number, (text, speaker, emotion, dialogue, turn) in enumerate(rows, start=1):
        times = f'"00:{number // 60:02}:{number % 60:02},059","00:{number // 60:02}:{number % 60:02},859"'
        lines.append(f'{number},"{text}",{speaker},{emotion},neutral,{dialogue},{turn},8,{episode},{times}')
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode())


def touch(path, content=b"clip"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


PLAIN = [("Hi.", "Ross", "joy", 0, 0), ("No.", "Joey", "anger", 0, 1), ("Oh, well.", "Ross", "sadness", 1, 0)]


@needs_meld
def test_real_counts(real):
    count = Counter(u.split for u in real.utterances)
    assert count == {"train": 9989, "dev": 1109}
    assert len({(u.split, u.dialogue_id) for u in real.utterances}) == 1038 + 114
    assert not real.rejects
    train = Counter(u.emotion for u in real.utterances if u.split == "train")
    assert train == {
        "neutral": 4710, "happy": 1743, "surprise": 1205, "angry": 1109, "sad": 683, "disgust": 271,
        "fearful": 268,
    }  # fmt: skip


@needs_meld
def test_real_particular_rows(real):
    by_key = {u.key: u for u in real.utterances}
    assert not any(key[1:3] == ("train", "60") for key in by_key)
    assert by_key[("meld", "dev", "110", 7)].text == "Did they tell you anything?"
    first = by_key[("meld", "train", "0", 0)]
    assert (
        first.text == "also I was the point person on my company’s transition from the KL-5 to GR-6 system."
    )
    assert first.media_digest is None


@needs_meld
@pytest.mark.parametrize("split", ["train", "dev"])
def test_real_old_encoding_gives_the_current_text(tmp_path, split):
    name = f"{split}_sent_emo.csv"
    (tmp_path / "old").mkdir()
    shutil.copyfile(SHARED / "raw_2018" / name, tmp_path / "old" / name)
    old = read_all(tmp_path)
    assert not any(0x80 <= ord(c) <= 0x9F for u in old.utterances for c in u.text + u.speaker)
    # The current files read by nothing but the csv module.
    with open(SHARED / name, encoding="utf-8", newline="") as file:
        expected = {
            (r["Dialogue_ID"], int(r["Utterance_ID"])): (r["Utterance"].strip(), r["Speaker"], r["Emotion"])
            for r in csv.DictReader(file)
        }
    assert {(u.dialogue_id, u.turn): (u.text, u.speaker, u.emotion_raw) for u in old.utterances} == expected


@needs_meld
def test_real_copy_is_named_once_and_ignored(real):
    notes = [note for note in real.notes if "raw_2018" in note]
    assert len(notes) == 1


@needs_meld
def test_real_exchanges_of_train(real):
    exchanges, fallen = cut_exchanges(u for u in real.utterances if u.split == "train")
    assert len(exchanges) == 6910
    assert fallen == {"same_speaker": 2009, "gap": 32}
    assert len(exchanges) + sum(fallen.values()) == 8951


@pytest.mark.parametrize(
    ("labels", "clips"),
    [
        ("MELD.Raw/train_sent_emo.csv", "MELD.Raw/train_splits"),
        ("MELD.Raw/train/train_sent_emo.csv", "MELD.Raw/train/train_splits"),
        ("MELD.Raw/MELD.Raw/train_sent_emo.csv", "train_splits"),
        ("train_sent_emo.csv", "train"),
    ],
)
def test_layouts(tmp_path, labels, clips):
    write_labels(tmp_path / labels, PLAIN)
    touch(tmp_path / clips / "dia0_utt1.mp4")
    touch(tmp_path / clips / "._dia0_utt0.mp4")
    result = read_all(tmp_path, DataSettings(validation_share=0.5))
    with_clip = [u for u in result.utterances if u.video_path]
    assert [(u.dialogue_id, u.turn, u.video_path) for u in with_clip] == [("0", 1, f"{clips}/dia0_utt1.mp4")]
    assert with_clip[0].audio_path == with_clip[0].video_path and with_clip[0].media_digest
    assert any("2 utterances without a clip" in note for note in result.notes)
    (raw,) = find_datasets(tmp_path)
    assert source_files(raw, tmp_path) == sorted([tmp_path / labels, tmp_path / clips / "dia0_utt1.mp4"])


def test_ids_restart_in_every_split(tmp_path):
    for split, folder in (
        ("train", "train_splits"),
        ("dev", "dev_splits_complete"),
        ("test", "output_repeated_splits_test"),
    ):
        write_labels(tmp_path / f"{split}_sent_emo.csv", [(f"I am {split}.", "A", "joy", 0, 0)])
        touch(tmp_path / folder / "dia0_utt0.mp4", split.encode())
    result = read_all(tmp_path)
    assert [(u.split, u.text) for u in result.utterances] == [
        ("dev", "I am dev."), ("test", "I am test."), ("train", "I am train."),
    ]  # fmt: skip
    assert len({u.media_digest for u in result.utterances}) == 3


def test_corrected_test_clips_win_and_extra_clips_are_counted(tmp_path):
    folder = tmp_path / "output_repeated_splits_test"
    write_labels(tmp_path / "test_sent_emo.csv", PLAIN[:2])
    for name in ("dia0_utt0.mp4", "final_videos_testdia0_utt0.mp4", "dia0_utt1.mp4", "dia9_utt9.mp4"):
        touch(folder / name)
    result = read_all(tmp_path)
    assert [u.video_path.rpartition("/")[2] for u in result.utterances] == [
        "final_videos_testdia0_utt0.mp4", "dia0_utt1.mp4",
    ]  # fmt: skip
    assert any("1 clips without a row" in note for note in result.notes)
    assert any("1 further files" in note for note in result.notes)


def test_copies_that_differ_are_an_error(tmp_path):
    write_labels(tmp_path / "dev_sent_emo.csv", PLAIN)
    write_labels(tmp_path / "old/dev_sent_emo.csv", [*PLAIN[:2], ("Other.", "Ross", "sadness", 1, 0)])
    with pytest.raises(RawDataError, match=r"old/dev_sent_emo\.csv and dev_sent_emo\.csv"):
        read_all(tmp_path)


def test_missing_columns_are_named(tmp_path):
    write_labels(tmp_path / "dev_sent_emo.csv", [], header="Sr No.,Utterance,Speaker,Sentiment")
    with pytest.raises(RawDataError, match="dev_sent_emo.csv: columns missing: Emotion, Dialogue_ID"):
        read_all(tmp_path)


def test_unknown_emotion_names_the_line(tmp_path):
    write_labels(tmp_path / "dev_sent_emo.csv", [PLAIN[0], ("Hm.", "Ross", "bored", 0, 1)])
    with pytest.raises(LabelError, match=r"dev_sent_emo\.csv line 3: unknown meld emotion 'bored'"):
        read_all(tmp_path)


def test_rows_that_are_none_are_rejected_by_name(tmp_path):
    rows = [PLAIN[0], PLAIN[0], ("  ", "Ross", "joy", 0, 4), ("x", "Ross", "joy", "zero", 1)]
    write_labels(tmp_path / "dev_sent_emo.csv", rows)
    result = read_all(tmp_path)
    assert len(result.utterances) == 1
    assert sorted(r.reason for r in result.rejects) == ["bad_row", "duplicate", "empty_text"]


def test_a_quote_left_open_costs_one_row(tmp_path):
    write_labels(tmp_path / "dev_sent_emo.csv", PLAIN)
    path = tmp_path / "dev_sent_emo.csv"
    path.write_bytes(path.read_bytes().replace(b'"Hi."', b'"Hi.'))
    result = read_all(tmp_path)
    assert [u.text for u in result.utterances] == ["No.", "Oh, well."]
    assert [(r.reason, r.detail[:24]) for r in result.rejects] == [("bad_row", "dev_sent_emo.csv line 2:")]


def test_a_comma_without_quotes_shifts_no_field(tmp_path):
    write_labels(tmp_path / "dev_sent_emo.csv", PLAIN)
    path = tmp_path / "dev_sent_emo.csv"
    path.write_bytes(path.read_bytes().replace(b'"Oh, well."', b"Oh, well."))
    result = read_all(tmp_path)
    assert len(result.utterances) == 2 and [r.reason for r in result.rejects] == ["bad_row"]


def test_stated_lengths():
    assert stated_seconds("00:16:16,059", "00:16:21,731") == 5.672
    assert stated_seconds("0:59:59,900", "1:00:00,400") == 0.5
    assert stated_seconds("0:00:01,000", "0:00:01,000") == 0.0
    assert stated_seconds("0:00:02,000", "0:00:01,000") is None
    assert stated_seconds("", "00:00:01,000") is None and stated_seconds("1:2:3,4", "soon") is None


@needs_meld
def test_real_lengths(real):
    """Golden values: hours, and how many are shorter than 0.1 s and 0.3 s or longer than 15 s."""
    for split, hours, tiny, short, long in (("train", 8.71, 8, 151, 25), ("dev", 0.96, 2, 17, 6)):
        stated = [u.seconds for u in real.utterances if u.split == split and u.seconds is not None]
        assert round(sum(stated) / 3600, 2) == hours
        assert (sum(s < 0.1 for s in stated), sum(s < 0.3 for s in stated)) == (tiny, short)
        assert sum(s > 15 for s in stated) == long


@needs_meld
def test_real_row_with_comma_and_open_parenthesis(real):
    text = next(u.text for u in real.utterances if u.key == ("meld", "train", "309", 0))
    assert "," in text and text.count("(") == text.count(")") + 1


@needs_meld
def test_no_control_of_the_damaged_encoding_is_left(real):
    assert not [u for u in real.utterances if any("\x80" <= c <= "\x9f" or c == "\xa0" for c in u.text)]


def test_known_bad_clips_are_withdrawn_and_their_text_stays(tmp_path):
    """Damaged (125, 3), wrongly cut (309, 0), drifting (793, 0): only the last keeps its clip."""
    rows = [(f"Line {d}.", "A", "joy", d, t) for d, t in ((125, 3), (309, 0), (793, 0), (1, 0))]
    write_labels(tmp_path / "train_sent_emo.csv", rows)
    write_labels(
        tmp_path / "dev_sent_emo.csv", [("Did they?", "A", "joy", 110, 7), ("No.", "B", "joy", 1, 1)]
    )
    for _, _, _, dialogue, turn in rows:
        touch(tmp_path / f"train_splits/dia{dialogue}_utt{turn}.mp4", f"{dialogue} {turn}".encode())
    touch(tmp_path / "dev_splits_complete/dia1_utt1.mp4", b"dev")
    result = read_all(tmp_path)
    assert len(result.utterances) == 6 and not result.rejects
    clips = {int(u.dialogue_id): u.media_digest is not None for u in result.utterances if u.split == "train"}
    assert clips == {125: False, 309: False, 793: True, 1: True}
    assert Counter(r.reason for r in result.defects) == {
        "known_bad": 2, "known_bad_flagged": 1, "known_missing": 1,
    }  # fmt: skip
    assert all("issue" in r.detail for r in result.defects)


def test_not_utf8_is_an_error(tmp_path):
    touch(tmp_path / "dev_sent_emo.csv", HEADER.encode() + b"\n1,it\x92s\n")
    with pytest.raises(RawDataError, match=r"dev_sent_emo\.csv line 2: not UTF-8"):
        read_all(tmp_path)


def test_roots_without_data(tmp_path):
    with pytest.raises(RawDataError, match="no such folder"):
        find_datasets(tmp_path / "nowhere")
    with pytest.raises(RawDataError, match="empty"):
        find_datasets(tmp_path)
    touch(tmp_path / "notes.txt")
    with pytest.raises(RawDataError, match="no known dataset"):
        find_datasets(tmp_path)


def test_train_gives_dev_where_the_release_part_has_none(tmp_path):
    write_labels(tmp_path / "train_sent_emo.csv", [("Hi.", "A", "joy", d, 0) for d in range(20)])
    result = read_all(tmp_path)
    assert Counter(u.split for u in result.utterances) == {"train": 18, "dev": 2}


def test_subset_keeps_splits_and_moves_little(tmp_path):
    rows = [("Hi.", "A", "joy", d, t) for d in range(30) for t in range(2)]
    write_labels(tmp_path / "train_sent_emo.csv", rows)
    write_labels(tmp_path / "dev_sent_emo.csv", rows[:20])
    settings = DataSettings(dialogues=12)
    chosen = {(u.split, u.dialogue_id) for u in read_all(tmp_path, settings).utterances}
    assert len(chosen) == 12
    assert chosen != {
        (u.split, u.dialogue_id) for u in read_all(tmp_path, DataSettings(dialogues=12, seed=1)).utterances
    }
    write_labels(tmp_path / "train_sent_emo.csv", [*rows, ("New.", "A", "joy", 30, 0)])
    after = {(u.split, u.dialogue_id) for u in read_all(tmp_path, settings).utterances}
    assert len(chosen - after) <= 1
