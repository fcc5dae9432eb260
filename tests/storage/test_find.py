"""Finding datasets under one root: several at once, twice the same, and layouts that may be read in two ways."""

import os

import pytest

from storage.filestat import content_digest
from storage.readers.common import lines_of, walk, whole_number
from storage.readers.find import RawDataError, find_datasets, read_dataset
from storage.readers.find import part_clips as _part_clips
from storage.sample.layout import write_sample
from storage.settings import DataSettings
from storage.utterance import SPLITS, Utterance

MELD = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
)
ROW = '{n},{text},Ross,joy,neutral,{n},0,8,21,"00:16:{n:02},059","00:16:{n:02},731"\n'


def touch(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode() if content is None else content)


def write_meld(root, split="train", count=3):
    touch(
        root / f"{split}_sent_emo.csv",
        (MELD + "".join(ROW.format(n=n, text=f"Line {n} of {split}.") for n in range(count))).encode(),
    )


def read(root, name, **settings):
    raw = next(r for r in find_datasets(root) if r.dataset == name)
    return read_dataset(raw, root, DataSettings(**settings), content_digest)


def test_five_datasets_under_one_root(tmp_path):
    root = tmp_path / "raw"
    write_sample(root, media=False)
    touch(root / "RAVDESS/Video_Speech_Actor_01/Actor_01/01-01-03-01-01-01-01.mp4")
    touch(root / "CREMA-D/AudioWAV/1001_DFA_ANG_XX.wav")
    found = find_datasets(root)
    assert [r.dataset for r in found] == ["crema_d", "iemocap", "meld", "multidialog", "ravdess"]
    files = [path for r in found for path in r.files]
    assert len(files) == len(set(files))  # MultiDialog's "video…" folders do not take RAVDESS's
    assert {r.dataset: r.folder.relative_to(root).parts[:1] for r in found}["ravdess"] == ("RAVDESS",)


def test_a_clip_in_no_splits_folder_is_ambiguous(tmp_path):
    write_meld(tmp_path)
    touch(tmp_path / "clips/dia0_utt0.mp4")
    with pytest.raises(
        RawDataError, match=r"clips/dia0_utt0\.mp4 may be of train, dev or test.*train_splits"
    ):
        find_datasets(tmp_path)


def test_a_split_of_meld_that_is_still_packed(tmp_path):
    """The release's archive holds archives; the train label file lies in one of them."""
    write_meld(tmp_path / "MELD.Raw", "dev")
    touch(tmp_path / "MELD.Raw/train.tar.gz")
    with pytest.raises(RawDataError, match=r"MELD\.Raw/train\.tar\.gz is still packed"):
        find_datasets(tmp_path)
    touch(tmp_path / "MELD.Raw/train_splits/dia0_utt0.mp4")
    assert find_datasets(tmp_path)


def test_two_clips_of_one_row_that_differ_are_named(tmp_path):
    write_meld(tmp_path)
    touch(tmp_path / "train_splits/dia0_utt0.mp4", b"one")
    touch(tmp_path / "deep/train_splits/dia0_utt0.mp4", b"one")
    assert read(tmp_path, "meld").utterances[0].video_path == "train_splits/dia0_utt0.mp4"
    touch(tmp_path / "deep/train_splits/dia0_utt0.mp4", b"another")
    with pytest.raises(
        RawDataError, match="clip train dia0_utt0: train_splits/.* and deep/train_splits/.* differ"
    ):
        read(tmp_path, "meld")


def test_the_dyadic_variant_is_refused_by_name(tmp_path):
    touch(tmp_path / "train_sent_emo.csv", MELD.replace("Sr No.", "Old_Dialogue_ID").encode())
    with pytest.raises(RawDataError, match="dyadic variant"):
        read(tmp_path, "meld")


def test_walk_goes_once_through_each_folder_and_leaves_out_strange_names(tmp_path):
    touch(tmp_path / "a/b.txt")
    os.symlink(tmp_path, tmp_path / "a/loop")
    os.symlink(tmp_path / "nowhere", tmp_path / "a/broken")
    with open(os.path.join(os.fsencode(tmp_path), b"not\xffutf8.txt"), "wb"):
        pass
    touch(tmp_path / "a/._b.txt")
    files, left_out = walk(tmp_path)
    assert files == ["a/b.txt"]
    assert left_out == ["a/._b.txt", "a/broken", "not\udcffutf8.txt"]


def test_lines_and_numbers():
    assert lines_of("a\r\nb\u2028c\x85d\re\n") == ["a", "b\u2028c\x85d", "e", ""]
    assert whole_number("0012") == 12
    for text in ("", "-1", "1_0", "٣", "1.0", "2147483648", "9" * 40, " 1"):
        with pytest.raises(ValueError):
            whole_number(text)


def test_every_row_is_an_utterance_or_a_reject(tmp_path):
    root = tmp_path / "raw"
    write_sample(root, media=False)
    for raw in find_datasets(root):
        result = read_dataset(raw, root, DataSettings(), content_digest)
        assert len(result.utterances) + len(result.rejects) == result.rows > 0


def test_no_dialogue_is_in_two_splits(tmp_path):
    root = tmp_path / "raw"
    write_sample(root, media=False)
    for raw in find_datasets(root):
        splits = {}
        for u in read_dataset(raw, root, DataSettings(), content_digest).utterances:
            # MELD's ids restart in every split: there the split is a part of the name.
            name = u.dialogue_id if u.dataset != "meld" else f"{u.split} {u.dialogue_id}"
            splits.setdefault(name, set()).add(u.split)
        assert all(len(found) == 1 for found in splits.values()), raw.dataset


def test_the_same_seconds_in_two_splits(tmp_path):
    write_meld(tmp_path, "train", 3)
    write_meld(tmp_path, "dev", 2)
    for folder, count in (("train_splits", 3), ("dev_splits_complete", 2)):
        for n in range(count):
            touch(tmp_path / folder / f"dia{n}_utt0.mp4", f"{folder} {n}".encode())
    result = read(tmp_path, "meld")
    media = {(u.split, u.dialogue_id): u.media_digest is not None for u in result.utterances}
    assert media == {
        ("dev", "0"): True, ("dev", "1"): True,
        ("train", "0"): False, ("train", "1"): False, ("train", "2"): True,
    }  # fmt: skip
    assert [(r.reason, r.detail) for r in result.defects] == [
        ("clip_in_two_splits", f"withdrawn: the same seconds of the episode as dev dia{n}_utt0")
        for n in (0, 1)
    ]


def test_of_three_splits_test_keeps_a_clip():
    said = [
        Utterance(
            "meld", split, "0", 0, "A", "Hi.", None, None, f"{split}.mp4", f"{split}.mp4", media_digest="m"
        )
        for split in SPLITS
    ]
    kept, told = _part_clips(said, dict.fromkeys((u.video_path for u in said), "same"))
    assert {u.split: u.media_digest for u in kept} == {"train": None, "dev": None, "test": "m"}
    assert [(t.split, t.reason) for t in told] == [
        ("dev", "clip_in_two_splits"),
        ("train", "clip_in_two_splits"),
    ]


def test_texts_and_rows_beyond_the_limits(tmp_path):
    write_meld(tmp_path)
    limits = {"limits": {"text_chars": 14}}
    assert [r.reason for r in read(tmp_path, "meld", **limits).rejects] == ["too_long"] * 3
    with open(tmp_path / "train_sent_emo.csv", "a") as file:
        file.truncate(2 << 20)
    with pytest.raises(
        RawDataError, match=r"train_sent_emo\.csv: 2 MB of text; more than data\.limits\.text_mb=1"
    ):
        read(tmp_path, "meld", limits={"text_mb": 1})
