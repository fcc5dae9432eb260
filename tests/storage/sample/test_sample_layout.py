"""The raw trees: names, line formats, codecs, and the same bytes every time."""

import csv
import hashlib
import json
import re
import wave
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest

from storage.sample.layout import MELD_HEADER, SampleError, write_sample
from storage.sample.script import load_scripts

SUMMARY = re.compile(r"^\[(\d+\.\d+) - (\d+\.\d+)\]\t(\S+)\t([a-z]{3})\t\[([\d.]+), ([\d.]+), ([\d.]+)\]$")
SPOKEN = re.compile(r"^(Ses0[1-5][FM]_\w+?_[FM]\d{3}) \[(\d{3}\.\d{4})-(\d{3}\.\d{4})\]: (.+)$")


@pytest.fixture(scope="module")
def text_tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("text") / "raw"
    return root, write_sample(root, media=False)


@pytest.fixture(scope="module")
def small_tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("small") / "raw"
    return root, write_sample(root, workers=1, dialogues=1, turns=2)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def probe(path: Path):
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], next(iter(container.streams.audio), None)
        shapes = Counter(frame.to_ndarray(format="rgb24").shape for frame in container.decode(video))
        codec = (video.codec_context.name, sound.codec_context.name if sound else None)
        return codec, shapes, float(video.average_rate), container.duration / av.time_base


def test_counts(text_tree):
    _, counts = text_tree
    scripts = load_scripts()
    for dataset, count in counts.items():
        own = [s for s in scripts if s.dataset == dataset]
        assert count == {
            "dialogues": len(own),
            "utterances": sum(len(s.lines) for s in own),
            "with_media": 0,
        }


def test_meld_tables(text_tree):
    root, _ = text_tree
    for split, size in (("train", 14), ("dev", 3), ("test", 5)):
        raw = (root / "MELD.Raw" / f"{split}_sent_emo.csv").read_bytes()
        assert raw.count(b"\r\n") == raw.count(b"\n")
        rows = list(csv.DictReader(raw.decode("utf-8").splitlines()))
        assert tuple(rows[0]) == MELD_HEADER
        assert len({row["Dialogue_ID"] for row in rows}) == size
        assert {row["Emotion"] for row in rows} == {
            "anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"
        }  # fmt: skip
        assert {row["Sentiment"] for row in rows} == {"neutral", "positive", "negative"}
        assert all(re.fullmatch(r"\d\d:\d\d:\d\d,\d{3}", row["StartTime"]) for row in rows)
        assert all(row["StartTime"] < row["EndTime"] for row in rows)


def test_multidialog_metadata(text_tree):
    root, _ = text_tree
    for split, size in (("train", 7), ("test_freq", 3)):
        path = root / "MultiDialog" / "metadata" / split / f"{split}_metadata_0000.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert len({row["conv_id"] for row in rows}) == size
        assert {row["from"] for row in rows} == {"gpt", "human"}
        for row in rows:
            stem = rf"{row['conv_id']}/{row['conv_id']}_{row['utterance_id']}[a-l]\.wav"
            assert re.fullmatch(stem, row["file_name"])


def test_iemocap_lines(text_tree):
    root, _ = text_tree
    labels = Counter()
    for path in sorted(root.glob("IEMOCAP_full_release/Session*/dialog/EmoEvaluation/*.txt")):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("% [START_TIME")
        found = [SUMMARY.match(line) for line in lines if line.startswith("[")]
        names = [match[3] for match in found]
        assert names == sorted(names)  # F before M, each counted up
        labels.update(match[4] for match in found)
        spoken = (path.parents[1] / "transcriptions" / path.name).read_text().splitlines()
        heard = [SPOKEN.match(line) for line in spoken]
        assert sorted(match[1] for match in heard) == names
        starts = [float(match[2]) for match in heard]
        assert starts == sorted(starts)
        ends = {match[1]: float(match[3]) for match in heard}
        assert all(ends[match[3]] == float(match[2]) for match in found)
    assert {"exc", "fru", "xxx", "hap", "dis", "fea", "sur", "ang", "sad", "neu"} == set(labels)


def test_small_tree_has_every_kind_of_file(small_tree):
    root, counts = small_tree
    kinds = Counter(path.suffix for path in root.rglob("*") if path.is_file())
    # 2 turns of: 3 MELD dialogues, 2 MultiDialog, 1 IEMOCAP (with one dialog wav and avi); and the marker.
    assert kinds == {".mp4": 6 + 4, ".wav": 4 + 2 + 1, ".avi": 1, ".csv": 3, ".jsonl": 2, ".txt": 3}
    assert [count["with_media"] for count in counts.values()] == [6, 4, 2]


def test_mp4_codecs_and_length(small_tree):
    root, _ = small_tree
    for path in sorted(root.rglob("*.mp4")):
        codec, shapes, rate, seconds = probe(path)
        assert codec == ("h264", "aac")
        assert list(shapes) == [(224, 224, 3)]
        assert 12 <= rate <= 15 and 0.9 <= seconds <= 3.2


def test_sentence_wavs_are_16k_mono(small_tree):
    root, _ = small_tree
    paths = sorted(root.rglob("sentences/wav/*/*.wav")) + sorted(root.rglob("data/*/*/*.wav"))
    assert len(paths) == 6
    for path in paths:
        with wave.open(str(path)) as source:
            assert (source.getframerate(), source.getnchannels(), source.getsampwidth()) == (16000, 1, 2)
            assert 1.0 <= source.getnframes() / 16000 <= 3.0


def test_avi_shows_the_speaker_on_the_right_side(small_tree):
    root, _ = small_tree
    path = next(root.rglob("*.avi"))
    codec, shapes, rate, seconds = probe(path)
    assert codec == ("mpeg4", None) and list(shapes) == [(480, 720, 3)]
    with wave.open(str(next(root.rglob("dialog/wav/*.wav")))) as source:
        assert source.getnchannels() == 2
        assert abs(source.getnframes() / source.getframerate() - seconds) < 0.2
    with av.open(str(path)) as container:
        film = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]).astype(float)
    transcript = next(root.rglob("transcriptions/*.txt")).read_text().splitlines()
    for match in map(SPOKEN.match, transcript):
        frames = film[round(float(match[2]) * rate) : round(float(match[3]) * rate), 270:330]
        moved = np.abs(np.diff(frames, axis=0)).mean(axis=(0, 1, 3))
        wearer_speaks = match[1][-4] == path.stem[5]
        assert (moved[130:230].mean() > moved[490:590].mean()) == wearer_speaks


def test_same_bytes_for_any_number_of_workers(small_tree, tmp_path):
    """And what is told of it: every utterance that is filmed, from before the first one to the last."""
    (root, counts), told = small_tree, []
    write_sample(
        tmp_path / "again", workers=2, dialogues=1, turns=2, progress=lambda *parts: told.append(parts)
    )
    assert digests(tmp_path / "again") == digests(root)
    filmed = sum(found["with_media"] for found in counts.values())
    assert {total for _, total in told} == {filmed} and told == sorted(told)
    assert told[0][0] == 0 and told[-1][0] == filmed > len(told) - 1 > 1  # a whole dialogue is filmed at once


def test_seed_moves_media_and_keeps_text(text_tree, tmp_path):
    root, _ = text_tree
    write_sample(tmp_path / "other", seed=1, media=False)
    metadata = "MultiDialog/metadata/train/train_metadata_0000.jsonl"
    assert (tmp_path / "other" / metadata).read_bytes() == (root / metadata).read_bytes()
    assert digests(tmp_path / "other") != digests(root)


def test_refuses_a_folder_in_use(tmp_path):
    (tmp_path / "raw").mkdir()
    write_sample(tmp_path / "raw", media=False, dialogues=1)  # empty: fine
    before = digests(tmp_path)
    with pytest.raises(SampleError, match="not an empty folder"):
        write_sample(tmp_path / "raw", media=False)
    with pytest.raises(SampleError, match="workers is 0"):
        write_sample(tmp_path / "new", workers=0)
    assert digests(tmp_path) == before


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no encoder")

    monkeypatch.setattr("storage.sample.clips._make_iemocap", broken)
    with pytest.raises(RuntimeError, match="no encoder"):
        write_sample(tmp_path / "raw", workers=1, dialogues=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_whole_sample(tmp_path):
    counts = write_sample(tmp_path / "raw")
    assert sum(count["with_media"] for count in counts.values()) >= 140
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert size < 60e6
    for path in sorted(tmp_path.rglob("*.avi")) + sorted(tmp_path.rglob("*.mp4")):
        assert len(probe(path)[1]) == 1
