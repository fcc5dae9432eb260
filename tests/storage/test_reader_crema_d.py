"""CREMA-D: small trees in the layout of the release, and its real list of names and table of votes."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest

from storage.filestat import content_digest
from storage.labels import LabelError
from storage.readers.crema_d import NAME, SENTENCES, read_votes
from storage.readers.find import RawDataError, find_datasets, read_dataset
from storage.settings import DataSettings

SHARED = Path(__file__).resolve().parents[2] / "../shared/data/crema_d"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 71922\n"
VOTES = '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"\n'

needs_votes = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared CREMA-D tables are not here")


def touch(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode() if content is None else content)


def lay_out(root, *names, folders=("AudioWAV", "VideoFlash")):
    suffixes = {"AudioWAV": "wav", "VideoFlash": "flv", "AudioMP3": "mp3"}
    for name in names:
        for folder in folders:
            touch(root / folder / f"{name}.{suffixes[folder]}")


def read_all(root, **settings):
    (raw,) = find_datasets(root)
    return read_dataset(raw, root, DataSettings(**settings), content_digest)


def test_sound_from_the_wav_and_picture_from_the_flv(tmp_path):
    lay_out(tmp_path / "CREMA-D", "1001_IEO_FEA_HI", folders=("AudioWAV", "AudioMP3", "VideoFlash"))
    (u,) = read_all(tmp_path).utterances
    assert (u.dialogue_id, u.turn, u.speaker, u.emotion, u.emotion_raw) == (
        "1001_IEO_FEA_HI", 0, "1001", "fearful", "FEA",
    )  # fmt: skip
    assert u.text == "It's eleven o'clock."
    assert u.audio_path == "CREMA-D/AudioWAV/1001_IEO_FEA_HI.wav"
    assert u.video_path == "CREMA-D/VideoFlash/1001_IEO_FEA_HI.flv"


@pytest.mark.parametrize(("folders", "suffix"), [(("AudioMP3",), "mp3"), (("VideoFlash",), "flv")])
def test_other_sounds_stand_in(tmp_path, folders, suffix):
    lay_out(tmp_path, "1001_DFA_ANG_XX", folders=folders)
    (u,) = read_all(tmp_path).utterances
    assert u.audio_path.endswith(suffix)


def test_a_clone_without_git_lfs_fails_loudly(tmp_path):
    for number in range(3):
        touch(tmp_path / f"AudioWAV/100{number}_DFA_ANG_XX.wav", POINTER)
    with pytest.raises(
        RawDataError, match=r"1000_DFA_ANG_XX\.wav and 2 more are Git LFS pointers.*git lfs pull"
    ):
        read_all(tmp_path)


def test_a_clone_with_some_folders_pulled_uses_those(tmp_path):
    lay_out(tmp_path, "1001_DFA_ANG_XX", "1002_DFA_SAD_XX", folders=("AudioWAV",))
    touch(tmp_path / "VideoFlash/1001_DFA_ANG_XX.flv", POINTER)
    result = read_all(tmp_path)
    assert [u.video_path for u in result.utterances] == [None, None]
    assert [(r.reason, r.detail) for r in result.defects] == [
        ("lfs_pointer", "VideoFlash/1001_DFA_ANG_XX.flv")
    ]


def test_known_bad_clips(tmp_path):
    lay_out(tmp_path, "1076_MTI_NEU_XX", "1076_MTI_SAD_XX", "1064_TIE_SAD_XX", "1064_IEO_DIS_MD")
    result = read_all(tmp_path)
    assert [u.dialogue_id for u in result.utterances] == ["1064_TIE_SAD_XX", "1076_MTI_NEU_XX"]
    assert [(r.dialogue_id, r.reason) for r in result.rejects] == [
        ("1064_IEO_DIS_MD", "no_media"), ("1076_MTI_SAD_XX", "no_media"),
    ]  # fmt: skip
    assert len(read_all(tmp_path, known_bad="keep").utterances) == 4


def test_names_that_are_none(tmp_path):
    lay_out(
        tmp_path,
        "1001_DFA_ANG_XX",
        "1099_DFA_ANG_XX",
        "1001_ZZZ_ANG_XX",
        "1001_DFA_ANG_MX",
        folders=("AudioWAV",),
    )
    result = read_all(tmp_path)
    assert len(result.utterances) == 1 and [r.reason for r in result.rejects] == ["bad_name"] * 3
    lay_out(tmp_path, "1001_DFA_SUR_XX")
    with pytest.raises(LabelError, match=r"1001_DFA_SUR_XX\.wav: unknown crema_d emotion 'SUR'"):
        read_all(tmp_path)


def test_votes_are_a_setting_and_ties_have_no_target(tmp_path):
    lay_out(tmp_path, "1001_DFA_ANG_XX", "1002_DFA_ANG_XX", "1003_DFA_ANG_XX", folders=("AudioWAV",))
    with pytest.raises(RawDataError, match="no summaryTable.csv"):
        read_all(tmp_path, crema_d_label="votes")
    rows = (
        '"1","1001_DFA_ANG_XX","N","69.1","N","92.2","N","64.7"\n'
        '"2","1002_DFA_ANG_XX","N","69.1","N","92.2","F:N","64.75:61.50"\n'
        '"3","1002_DFA_ANG_XX","N","69.1","N","92.2","A","9"\n'
        '"4","../../../1003_DFA_ANG_XX","N","69.1","N","92.2","A","9"\n'
        '"5","1003_DFA_ANG_XX,"N"\n'
    )
    touch(tmp_path / "processedResults/summaryTable.csv", (VOTES + rows).encode())
    result = read_all(tmp_path, crema_d_label="votes")
    assert {u.speaker: (u.emotion, u.emotion_raw) for u in result.utterances} == {
        "1001": ("neutral", "N"), "1002": (None, "F:N"), "1003": (None, ""),
    }  # fmt: skip
    assert Counter(r.reason for r in result.defects) == {"duplicate_vote": 1, "bad_vote_line": 2}
    assert [u.emotion for u in read_all(tmp_path).utterances] == ["angry"] * 3
    touch(
        tmp_path / "processedResults/summaryTable.csv",
        (VOTES + '"1","1001_DFA_ANG_XX","N","1","N","1","Q","1"\n').encode(),
    )
    with pytest.raises(LabelError, match=r"summaryTable\.csv line 2: unknown crema_d emotion 'Q'"):
        read_all(tmp_path, crema_d_label="votes")


def test_actors_are_never_torn_apart(tmp_path):
    for actor in range(1001, 1031):
        lay_out(tmp_path, f"{actor}_DFA_ANG_XX", f"{actor}_DFA_SAD_XX", folders=("AudioWAV",))
    result = read_all(tmp_path)
    speakers = {}
    for u in result.utterances:
        speakers.setdefault(u.speaker, set()).add(u.split)
    assert all(len(splits) == 1 for splits in speakers.values())
    assert Counter(min(s) for s in speakers.values()) == {"train": 24, "dev": 3, "test": 3}


@needs_votes
def test_real_names_and_votes():
    """Golden values: 7,442 names parse, 420 ties, six labels, the vote is what was meant in 5,374."""
    with open(SHARED / "SentenceFilenames.csv", newline="") as file:
        names = [row["Filename"] for row in csv.DictReader(file)]
    matches = [NAME.fullmatch(name) for name in names]
    assert len(names) == 7442 and all(matches)
    assert {m["sentence"] for m in matches} == set(SENTENCES)
    assert Counter(m["emotion"] for m in matches) == {
        "ANG": 1271, "DIS": 1271, "FEA": 1271, "HAP": 1271, "SAD": 1271, "NEU": 1087,
    }  # fmt: skip
    votes, rejects = read_votes(SHARED, "summaryTable.csv", DataSettings())
    assert not rejects and set(votes) == set(names)
    assert sum(":" in vote for vote in votes.values()) == 420
    assert sum(votes[m[0]] == m["emotion"][0] for m in matches) == 5374


@needs_votes
def test_the_whole_list_as_a_tree(tmp_path):
    with open(SHARED / "SentenceFilenames.csv", newline="") as file:
        lay_out(tmp_path, *(row["Filename"] for row in csv.DictReader(file)), folders=("AudioWAV",))
    shutil.copy(SHARED / "summaryTable.csv", tmp_path / "summaryTable.csv")
    result = read_all(tmp_path)
    assert (result.rows, len(result.utterances), len(result.rejects)) == (7442, 7440, 2)
    assert {u.emotion for u in result.utterances} == {
        "angry",
        "disgust",
        "fearful",
        "happy",
        "neutral",
        "sad",
    }
    voted = read_all(tmp_path, crema_d_label="votes")
    assert sum(u.emotion is None for u in voted.utterances) in (419, 420)
