"""MultiDialog: small trees in the layout of the release."""

import io
import json
import random
import tarfile
from collections import Counter

import pytest

from storage import archives
from storage.archives import read_member
from storage.filestat import content_digest
from storage.readers.find import RawDataError, find_datasets, index_archives, read_dataset, source_files
from storage.settings import DataSettings

FIRST = "t_ffa55df6-114d-4b36-87a1-7af6b8b63d9b"
SECOND = "t_152ee99a-fec0-4d37-987a-b1510a9770e5"


def new_row(conversation, turn, letter, text, emotion="Neutral", split="train"):
    name = f"{conversation}/{conversation}_{turn}{letter}.wav"
    role = "gpt" if turn % 2 == 0 else "human"
    return {
        "file_name": name, "conv_id": conversation, "utterance_id": turn, "from": role, "value": text,
        "emotion": emotion, "original_full_path": f"data/{split}/{name}",
    }  # fmt: skip


def old_row(conversation, turn, letter, text, emotion="Neutral"):
    role = "gpt" if turn % 2 == 0 else "human"
    path = f"/home/x/{conversation}/{conversation}_{turn}{letter}.wav"
    return {"id": conversation, "utterance": str(turn), "from": role, "value": text, "emotion": emotion, "audpath": path}  # fmt: skip


def write_split(root, split, rows, part=0):
    path = root / "metadata" / split / f"{split}_metadata_{part:04}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    cache = tmp_path_factory.mktemp("cache") / "archives.sqlite"
    monkeypatch.setattr(archives, "_cache_file", lambda: cache)


def pack(path, members):
    """members: name -> content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def touch(path, content=b"media"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def read_all(root, **settings):
    (raw,) = find_datasets(root)
    return read_dataset(raw, root, DataSettings(**settings), content_digest)


def test_both_key_generations_give_the_same_utterances(tmp_path):
    turns = [(0, "i", "Hi!", "Happy"), (1, "k", "Hello.", "Surprising"), (3, "k", "A gap before me.", "Fear")]
    for name, make in (("new", new_row), ("old", old_row)):
        write_split(tmp_path / name, "train", [make(FIRST, *turn) for turn in turns])
    new, old = (read_all(tmp_path / name) for name in ("new", "old"))
    assert new.utterances == old.utterances
    assert [(u.turn, u.speaker, u.text, u.emotion) for u in new.utterances] == [
        (0, "i", "Hi!", "happy"), (1, "k", "Hello.", "surprise"), (3, "k", "A gap before me.", "fearful"),
    ]  # fmt: skip
    assert new.utterances[0].emotion_raw == "Happy"


def test_train_and_test_freq_alone(tmp_path):
    conversations = [f"t_{n:08}-114d-4b36-87a1-7af6b8b63d9b" for n in range(20)]
    write_split(tmp_path, "train", [new_row(c, 0, "a", "Hi.") for c in conversations[:10]])
    write_split(tmp_path, "train", [new_row(c, 0, "a", "Hi.") for c in conversations[10:]], part=1)
    write_split(tmp_path, "test_freq", [new_row(FIRST, 0, "a", "Hi.")])
    write_split(tmp_path, "valid_freq", [new_row(SECOND, t, "a", "Hi.") for t in range(3)])
    result = read_all(tmp_path)
    assert Counter(u.split for u in result.utterances) == {"train": 18, "dev": 2, "test": 1}
    assert any("valid_freq left out (3 rows)" in note for note in result.notes)
    assert all(u.dialogue_id != SECOND for u in result.utterances)


def test_media_by_name(tmp_path):
    write_split(tmp_path, "train", [new_row(FIRST, t, "ik"[t % 2], f"Turn {t}.") for t in range(3)])
    # Audio shards do not pair with metadata shards, so the folder above the conversation says nothing.
    touch(tmp_path / f"data/train/{FIRST}/{FIRST}_0i.wav")
    touch(tmp_path / f"data/train/{FIRST}/{FIRST}_1k.wav")
    touch(tmp_path / f"Videos_from_drive/{FIRST}_1k.mp4")
    touch(tmp_path / f"Videos_from_drive/{FIRST}_2i.mp4")
    touch(tmp_path / f"Videos_from_drive/{SECOND}.mp4")
    result = read_all(tmp_path)
    wav = f"data/train/{FIRST}/{FIRST}_"
    mp4 = f"Videos_from_drive/{FIRST}_"
    assert [(u.audio_path, u.video_path) for u in result.utterances] == [
        (f"{wav}0i.wav", None), (f"{wav}1k.wav", f"{mp4}1k.mp4"), (f"{mp4}2i.mp4", f"{mp4}2i.mp4"),
    ]  # fmt: skip
    assert any("1 videos of whole conversations" in note for note in result.notes)
    (raw,) = find_datasets(tmp_path)
    assert len(source_files(raw, tmp_path)) == 6


def test_archives_are_read_where_they_lie(tmp_path):
    """Audio archives do not pair with metadata files, and Mac twins and strangers lie between the wavs."""
    write_split(tmp_path, "train", [new_row(FIRST, t, "ik"[t % 2], f"Turn {t}.") for t in range(2)])
    write_split(tmp_path, "train", [new_row(SECOND, 0, "a", "Hi.")], part=1)
    pack(
        tmp_path / "data/train/train_chunks_0000.tar.gz",
        {
            f"{SECOND}/{SECOND}_0a.wav": b"second",
            f"{FIRST}/._{FIRST}_0i.wav": b"twin",
            "../../notes.txt": b"x",
        },
    )
    pack(tmp_path / "data/train/train_chunks_0001.tar.gz", {f"{FIRST}/{FIRST}_0i.wav": b"first"})
    pack(tmp_path / "data/valid_freq/valid_freq_chunks_0000.tar.gz", {f"{FIRST}/{FIRST}_1k.wav": b"no"})
    result = read_all(tmp_path)
    assert {(u.dialogue_id, u.turn): u.audio_path for u in result.utterances} == {
        (FIRST, 0): f"data/train/train_chunks_0001.tar.gz::{FIRST}/{FIRST}_0i.wav",
        (FIRST, 1): None,
        (SECOND, 0): f"data/train/train_chunks_0000.tar.gz::{SECOND}/{SECOND}_0a.wav",
    }
    with_audio = next(u for u in result.utterances if u.dialogue_id == SECOND)
    assert read_member(tmp_path, with_audio.audio_path) == b"second"
    assert not [path for path in tmp_path.rglob("*.wav")]


def test_archives_are_indexed_with_a_total_from_the_first_moment(tmp_path, monkeypatch):
    """Each is passed over once, before the rows are read, and the megabytes are those of the files."""
    draw = random.Random(0)
    write_split(tmp_path, "train", [new_row(FIRST, t, "ik"[t % 2], f"Turn {t}.") for t in range(3)])
    for part, mb in enumerate((3, 2)):
        pack(
            tmp_path / f"data/train/train_chunks_000{part}.tar.gz",
            {f"{FIRST}/{FIRST}_{turn}i.wav": draw.randbytes(mb << 19) for turn in (0, 2)},
        )
    (raw,) = find_datasets(tmp_path)
    seen: list[tuple[int, int]] = []
    whole = index_archives(raw, tmp_path, DataSettings(), lambda done, of: seen.append((done, of)))
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.tar.gz"))
    assert whole == -(-size // 2**20) == 6  # 5 MB that cannot be packed, and headers
    assert seen[0] == (0, 6) and seen[-1] == (6, 6) and seen == sorted(seen) and len({d for d, _ in seen}) > 2
    monkeypatch.setattr(archives, "_build", None)  # from here on nothing is passed over
    assert len(read_all(tmp_path).utterances) == 3


def test_unpacking_an_archive_changes_no_digest(tmp_path):
    write_split(tmp_path, "train", [new_row(FIRST, 0, "i", "Hi.")])
    archive = tmp_path / "data/train/train_chunks_0000.tar.gz"
    pack(archive, {f"{FIRST}/{FIRST}_0i.wav": b"sound"})
    (packed,) = read_all(tmp_path).utterances
    touch(tmp_path / f"data/train/{FIRST}/{FIRST}_0i.wav", b"sound")
    (both,) = read_all(tmp_path).utterances
    assert both.audio_path == f"data/train/{FIRST}/{FIRST}_0i.wav"
    assert both.media_digest == packed.media_digest is not None


def test_a_damaged_archive_gives_what_lies_before_the_damage(tmp_path):
    write_split(tmp_path, "train", [new_row(FIRST, t, "i", f"Turn {t}.") for t in range(40)])
    archive = tmp_path / "data/train/train_chunks_0000.tar.gz"
    pack(archive, {f"{FIRST}/{FIRST}_{t}i.wav": bytes(range(256)) * (t + 90) for t in range(40)})
    archive.write_bytes(archive.read_bytes()[:-400])
    result = read_all(tmp_path)
    assert [r.reason for r in result.defects] == ["damaged_archive"]
    found = [u for u in result.utterances if u.audio_path]
    assert 0 < len(found) < 40 and len(result.utterances) == 40
    assert any(f"{40 - len(found)} utterances without audio" in note for note in result.notes)


def test_audio_without_split_metadata_is_an_error(tmp_path):
    touch(tmp_path / "metadata.jsonl", b"{}\n")
    pack(tmp_path / "data/train/train_chunks_0000.tar.gz", {f"{FIRST}/{FIRST}_0i.wav": b"sound"})
    with pytest.raises(RawDataError, match=r"train_chunks_0000\.tar\.gz is audio of MultiDialog.*metadata"):
        find_datasets(tmp_path)


def test_a_wav_is_the_rows_by_its_whole_name(tmp_path):
    """The release was processed again and uploaded twice: a wav of another actor is not this row's."""
    write_split(tmp_path, "train", [new_row(FIRST, 0, "i", "Hi."), new_row(FIRST, 1, "k", "Ho.")])
    for name in ("0i", "1i"):
        touch(tmp_path / f"data/train/{FIRST}/{FIRST}_{name}.wav", name.encode())
    result = read_all(tmp_path)
    assert [u.audio_path is not None for u in result.utterances] == [True, False]
    assert any("1 wavs without a row" in note for note in result.notes)


def test_two_wavs_for_a_row_that_names_none_are_an_error(tmp_path):
    row = new_row(FIRST, 0, "i", "Hi.")
    del row["file_name"], row["original_full_path"]
    write_split(tmp_path, "train", [row])
    for letter in "ik":
        touch(tmp_path / f"data/train/{FIRST}/{FIRST}_0{letter}.wav")
    with pytest.raises(RawDataError, match=f"{FIRST}_0i.wav and .*{FIRST}_0k.wav are both named as turn 0"):
        read_all(tmp_path)


def test_a_conversation_of_test_is_taken_out_of_train(tmp_path):
    write_split(tmp_path, "train", [new_row(c, t, "a", "Hi.") for c in (FIRST, SECOND) for t in range(2)])
    write_split(tmp_path, "test_freq", [new_row(FIRST, 0, "a", "Hi.")])
    result = read_all(tmp_path)
    assert {(u.split, u.dialogue_id) for u in result.utterances} >= {("test", FIRST)}
    assert not {u.dialogue_id for u in result.utterances if u.split == "test"} & {
        u.dialogue_id for u in result.utterances if u.split != "test"
    }
    assert [r.reason for r in result.rejects] == ["dialogue_in_two_splits"] * 2


@pytest.mark.parametrize("path", ["../../etc/passwd", f"/etc/{FIRST}_0i.wav", f"a\\..\\..\\{FIRST}_0i.wav"])
def test_a_path_that_leaves_the_root_is_rejected(tmp_path, path):
    bad = {**new_row(FIRST, 0, "i", "Hi."), "file_name": path}
    write_split(tmp_path, "train", [bad, new_row(FIRST, 1, "k", "Ho.")])
    result = read_all(tmp_path)
    assert [u.turn for u in result.utterances] == [1]
    assert [r.reason for r in result.rejects] == ["path_leaves_root"]


def test_video_names_are_a_setting(tmp_path):
    write_split(tmp_path, "train", [new_row(FIRST, t, "i", "Hi.") for t in range(2)])
    for turn in range(2):
        touch(tmp_path / f"video/train/clip-{turn}-of-{FIRST}.mp4", str(turn).encode())
    with pytest.raises(RawDataError, match=r"clip-0-of-.*data\.multidialog_video"):
        read_all(tmp_path)
    named = read_all(tmp_path, multidialog_video="clip-{turn}-of-{conversation}")
    assert [u.video_path for u in named.utterances] == [
        f"video/train/clip-{turn}-of-{FIRST}.mp4" for turn in range(2)
    ]
    with pytest.raises(RawDataError, match="has to hold"):
        read_all(tmp_path, multidialog_video="clip-{turn}")


@pytest.mark.parametrize(
    "change",
    [
        {"utterance_id": True}, {"utterance_id": 1e300}, {"utterance_id": -1}, {"utterance_id": 2**31},
        {"value": 7}, {"emotion": ["Happy"]}, {"from": {"a": 1}, "value": "x"}, {"conv_id": "a/b"},
        {"value": "half a pair \ud83d"}, {"utterance_id": 5},
    ],
)  # fmt: skip
def test_values_of_another_kind_are_rejected(tmp_path, change):
    row = {**new_row(FIRST, 0, "i", "Hi."), **change}
    write_split(tmp_path, "train", [row, new_row(FIRST, 1, "k", "Ho.")])
    result = read_all(tmp_path)
    assert [u.turn for u in result.utterances] == [1] and [r.reason for r in result.rejects] == ["bad_row"]


def test_text_only(tmp_path):
    write_split(tmp_path, "train", [new_row(FIRST, 0, "i", "Hi.")])
    (utterance,) = read_all(tmp_path).utterances
    assert utterance.audio_path is None and utterance.media_digest is None


def test_roles_stand_in_where_no_letter_is_known(tmp_path):
    rows = [new_row(FIRST, t, "i", "Hi.") for t in range(2)]
    for row in rows:
        del row["file_name"], row["original_full_path"]
    write_split(tmp_path, "train", rows)
    assert [u.speaker for u in read_all(tmp_path).utterances] == ["gpt", "human"]
    for turn, letter in ((0, "c"), (1, "d")):
        touch(tmp_path / f"data/train/{FIRST}/{FIRST}_{turn}{letter}.wav")
    assert [u.speaker for u in read_all(tmp_path).utterances] == ["c", "d"]


def test_bad_lines_are_rejected_by_name(tmp_path):
    good = new_row(FIRST, 0, "i", "Hi.")
    lines = [good, "{broken", good, {"conv_id": FIRST, "utterance_id": 4}, new_row(FIRST, 1, "k", " ")]
    write_split(tmp_path, "train", lines)
    result = read_all(tmp_path)
    assert len(result.utterances) == 1
    assert Counter(r.reason for r in result.rejects) == {"bad_row": 2, "duplicate": 1, "empty_text": 1}
    assert any("line 4: keys missing: value, emotion" in r.detail for r in result.rejects)


def test_a_file_without_turns_is_an_error(tmp_path):
    write_split(tmp_path, "train", [{"turn_id": 0}])
    with pytest.raises(RawDataError, match="keys missing: conv_id or id"):
        read_all(tmp_path)


def test_copies(tmp_path):
    rows = [new_row(FIRST, 0, "i", "Hi.")]
    write_split(tmp_path, "train", rows)
    write_split(tmp_path / "backup", "train", rows)
    assert any("backup/metadata/train" in note for note in read_all(tmp_path).notes)
    write_split(tmp_path / "backup", "train", [new_row(FIRST, 0, "i", "Changed.")])
    with pytest.raises(RawDataError, match="backup/metadata/train and metadata/train"):
        read_all(tmp_path)
