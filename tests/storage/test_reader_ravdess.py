"""RAVDESS: small trees named as the release names them."""

from collections import Counter

import pytest

from storage.filestat import content_digest
from storage.labels import LabelError
from storage.readers.find import RawDataError, find_datasets, read_dataset
from storage.settings import DataSettings, LabelPolicy


def touch(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode() if content is None else content)


def lay_out(root, actors, emotions=("01", "05"), modalities=("01", "03"), channel="01"):
    for actor in actors:
        for emotion in emotions:
            for modality in modalities:
                suffix = "wav" if modality == "03" else "mp4"
                name = f"{modality}-{channel}-{emotion}-01-02-01-{actor:02}.{suffix}"
                touch(root / f"Actor_{actor:02}" / name)


def read_all(root, **settings):
    (raw,) = find_datasets(root)
    return read_dataset(raw, root, DataSettings(**settings), content_digest)


def test_a_trial_is_one_row_whatever_its_modalities(tmp_path):
    lay_out(tmp_path / "Video_Speech_Actor_12", [12], emotions=("06",), modalities=("01", "02"))
    lay_out(tmp_path / "Audio_Speech_Actors_01-24", [12], emotions=("06",), modalities=("03",))
    (u,) = read_all(tmp_path).utterances
    name = "01-06-01-02-01-12"
    assert (u.dialogue_id, u.turn, u.speaker, u.emotion, u.emotion_raw) == (
        name,
        0,
        "Actor_12",
        "fearful",
        "06",
    )
    assert u.text == "Dogs are sitting by the door"
    assert u.video_path == f"Video_Speech_Actor_12/Actor_12/01-{name}.mp4"
    assert u.audio_path == f"Audio_Speech_Actors_01-24/Actor_12/03-{name}.wav"


@pytest.mark.parametrize(
    ("modalities", "video", "audio"),
    [(("01",), "01", "01"), (("02",), "02", None), (("03",), None, "03"), (("02", "03"), "02", "03")],
)
def test_what_lies_there_is_used(tmp_path, modalities, video, audio):
    lay_out(tmp_path, [1], emotions=("03",), modalities=modalities)
    (u,) = read_all(tmp_path).utterances
    assert [p and p.rpartition("/")[2][:2] for p in (u.video_path, u.audio_path)] == [video, audio]


@pytest.mark.parametrize(
    ("code", "emotion"),
    [("01", "neutral"), ("02", "neutral"), ("03", "happy"), ("04", "sad"), ("05", "angry"), ("06", "fearful"),
     ("07", "disgust"), ("08", "surprise")],
)  # fmt: skip
def test_labels(tmp_path, code, emotion):
    lay_out(tmp_path, [1], emotions=(code,))
    assert [u.emotion for u in read_all(tmp_path).utterances] == [emotion]


def test_calm_is_a_policy_and_stays_raw(tmp_path):
    lay_out(tmp_path, [1], emotions=("02",))
    (u,) = read_all(tmp_path, labels=LabelPolicy(ravdess_calm=None)).utterances
    assert (u.emotion, u.emotion_raw) == (None, "02")


def test_an_unknown_emotion_names_the_file(tmp_path):
    lay_out(tmp_path, [1], emotions=("09",))
    with pytest.raises(LabelError, match=r"Actor_01/01-01-09-.*mp4: unknown ravdess emotion '09'"):
        read_all(tmp_path)


def test_song_is_a_setting(tmp_path):
    lay_out(tmp_path, [1])
    lay_out(tmp_path, [1], channel="02")
    assert len(read_all(tmp_path).utterances) == 4
    speech = read_all(tmp_path, ravdess_song=False)
    assert [u.dialogue_id[:2] for u in speech.utterances] == ["01", "01"]
    assert any("2 songs left out" in note for note in speech.notes)


def test_actors_are_never_torn_apart(tmp_path):
    lay_out(tmp_path, range(1, 25))
    for settings in ({}, {"seed": 3}, {"dialogues": 20}):
        speakers = {}
        for u in read_all(tmp_path, **settings).utterances:
            speakers.setdefault(u.speaker, set()).add(u.split)
        assert all(len(splits) == 1 for splits in speakers.values())
    counts = Counter(next(iter(splits)) for splits in speakers.values())
    assert set(counts) == {"train", "dev", "test"}
    result = read_all(tmp_path)
    assert Counter({u.speaker: u.split for u in result.utterances}.values()) == {
        "train": 20,
        "dev": 2,
        "test": 2,
    }
    clips = {
        split: {u.media_digest for u in result.utterances if u.split == split}
        for split in ("train", "dev", "test")
    }
    assert not clips["train"] & clips["dev"] and not (clips["train"] | clips["dev"]) & clips["test"]


def test_copies_by_name(tmp_path):
    lay_out(tmp_path, [1])
    lay_out(tmp_path / "audio_speech_actors_01-24", [1], modalities=("03",))
    result = read_all(tmp_path)
    assert len(result.utterances) == 2 and any("2 files lie there twice" in note for note in result.notes)
    assert all(u.audio_path.startswith("Actor_01/") for u in result.utterances)
    touch(
        tmp_path / "audio_speech_actors_01-24/Actor_01/03-01-01-01-02-01-01.wav",
        b"another sound, longer than it",
    )
    with pytest.raises(RawDataError, match=r"Actor_01/03.*and audio_speech.* differ in size"):
        read_all(tmp_path)


def test_known_bad_files(tmp_path):
    for repetition in ("01", "02"):
        touch(tmp_path / f"Actor_07/03-01-03-01-02-{repetition}-07.wav")
        touch(tmp_path / f"Actor_07/01-01-03-01-02-{repetition}-07.mp4")
    touch(tmp_path / "Actor_01/03-01-02-01-01-02-01.wav", b"stereo")
    result = read_all(tmp_path)
    assert {u.dialogue_id: u.audio_path is not None for u in result.utterances} == {
        "01-02-01-01-02-01": True, "01-03-01-02-01-07": True, "01-03-01-02-02-07": False,
    }  # fmt: skip
    assert Counter(r.reason for r in result.defects) == {"known_bad": 1, "known_bad_flagged": 1}
    assert all(u.video_path for u in result.utterances if u.speaker == "Actor_07")
    kept = read_all(tmp_path, known_bad="keep")
    assert all(u.audio_path for u in kept.utterances) and not kept.defects


def test_one_sound_under_two_names_is_flagged(tmp_path):
    for actor in (2, 2, 3):
        touch(tmp_path / f"Actor_{actor:02}/03-01-03-01-01-01-{actor:02}.wav")
    touch(tmp_path / "Actor_02/03-01-03-01-01-02-02.wav", b"03-01-03-01-01-01-02.wav")
    result = read_all(tmp_path)
    assert [r.reason for r in result.defects] == ["repeated_clip"]
    assert all(u.audio_path for u in result.utterances)


def test_a_sound_of_train_that_is_tested_on_is_withdrawn(tmp_path):
    lay_out(tmp_path, range(1, 11), emotions=("01",), modalities=("03",))
    splits = {u.split: u for u in read_all(tmp_path).utterances}
    touch(tmp_path / splits["train"].audio_path, (tmp_path / splits["test"].audio_path).read_bytes())
    result = read_all(tmp_path)
    assert [(r.dialogue_id, r.reason) for r in result.defects] == [
        (splits["train"].dialogue_id, "clip_in_two_splits")
    ]
    by_name = {u.dialogue_id: u for u in result.utterances}
    assert by_name[splits["train"].dialogue_id].media_digest is None
    assert by_name[splits["test"].dialogue_id].media_digest is not None


def test_names_that_are_no_trials_and_twins(tmp_path):
    lay_out(tmp_path, [1], emotions=("01",))
    for name in ("03-01-01-01-01-01-25.wav", "01-01-01-01-01-01-02.wav", "03-03-01-01-01-01-02.wav"):
        touch(tmp_path / "Actor_02" / name)
    touch(tmp_path / "Actor_02/._03-01-01-01-01-01-02.wav")
    result = read_all(tmp_path)
    assert len(result.utterances) == 1 and [r.reason for r in result.rejects] == ["bad_name"] * 3
