"""Whatever a reader walks past is counted by name: another suffix, another case, another name, for every dataset."""

import io
import json
import tarfile

import pytest

from storage.filestat import content_digest
from storage.readers.common import counted_by_suffix
from storage.readers.find import RawDataError, find_datasets, read_dataset
from storage.readers.registry import DATASETS
from storage.sample.layout import write_sample
from storage.settings import DataSettings
from tasks.stages.utterances.cards import card_tables, make_card

CONVERSATION = "t_ffa55df6-114d-4b36-87a1-7af6b8b63d9b"
MELD = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"
    '1,"Hi.",Ross,joy,positive,0,0,8,21,"00:16:00,059","00:16:01,731"\n'
)
TALK = {"conv_id": CONVERSATION, "utterance_id": 0, "from": "gpt", "value": "Hi.", "emotion": "Happy",
        "file_name": f"{CONVERSATION}/{CONVERSATION}_0k.wav"}  # fmt: skip
TOPICAL = json.dumps({"t_0": {"content": [{"message": "Hi.", "agent": "agent_1", "sentiment": "Happy"}]}})
EMPATHETIC = (
    "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
    "hit:0_conv:1,1,joyful,Once.,1,Hi.,5|5|5_2|2|5,\n"
)
TURN = "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse me.\n"

CASES = {
    "crema_d": (
        {"AudioWAV/1001_DFA_ANG_XX.wav": "x"},
        ["AudioWAV/1040_ITH_SAD_X.wav", "AudioWAV/1001_IEO_FEA_HI.WAV", "VideoFlash/1001_IEO_FEA_HI.mp4",
         "odd/1002_dfa_ang_xx.wav"],
    ),
    "ravdess": (
        {"Actor_01/03-01-03-01-01-01-01.wav": "x"},
        ["Actor_01/03-01-06-01-02-01-01.WAV", "Actor_01/03-01-06-01-02-01.wav", "Actor_01/03-01-06-01-02-01-01.flac",
         "Actor_01/03_01_06_01_02_01_01.wav"],
    ),
    "meld": (
        {"train_sent_emo.csv": MELD, "train_splits/dia0_utt0.mp4": "x"},
        ["train_splits/dia0_utt1.MP4", "train_splits/dia0_utt1.avi", "train_splits/dia0utt1.mp4",
         "Train_sent_emo.csv"],
    ),
    "iemocap": (
        {"Session1/dialog/transcriptions/Ses01F_impro01.txt": TURN},
        ["Session1/dialog/transcriptions/Ses01F_impro01.TXT", "Session1/dialog/transcription/Ses01F_impro02.txt",
         "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.WAV", "Session6/dialog/avi/DivX/Ses06F_impro01.avi"],
    ),
    "multidialog": (
        {"metadata/train/train_metadata_0000.jsonl": json.dumps(TALK) + "\n"},
        [f"data/train/{CONVERSATION}/{CONVERSATION}_0k.WAV", f"data/train/{CONVERSATION}/{CONVERSATION}_0.wav",
         f"data/train/{CONVERSATION}/{CONVERSATION}_0k.flac", "metadata/train/train_metadata_0001.json"],
    ),
    "topical_chat": (
        {"conversations/test_freq.json": TOPICAL},
        ["conversations/test_rare.JSON", "conversations/valid-freq.json", "conversations/train.jsonl"],
    ),
    "dailydialog": (
        {"test/dialogues_test.txt": "Hi . __eou__ Ho . __eou__\n"},
        ["test/dialogues_test.TXT", "test/Dialogues_emotion_test.txt", "validation/dialogues_valid.txt"],
    ),
    "empathetic_dialogues": (
        {"empatheticdialogues/test.csv": EMPATHETIC},
        ["empatheticdialogues/train.CSV", "empatheticdialogues/dev.csv", "empatheticdialogues/valid.tsv"],
    ),
    "own": (
        {"dialogues.jsonl": '{"dialogue_id": "1", "turn": 0, "speaker": "A", "text": "Hi."}\n'},
        ["mine.jsonl", "dialogues.json", "dialogue.csv", "clips/a.bmp"],
    ),
}  # fmt: skip


def lay_out(root, dataset, strays=()):
    files, _ = CASES[dataset]
    for path, text in {**files, **{stray: stray for stray in strays}}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def read(root, name):
    raw = next(r for r in find_datasets(root) if r.dataset == name)
    return read_dataset(raw, root, DataSettings(), content_digest)


def test_every_dataset_is_tried():
    assert set(CASES) == {dataset.name for dataset in DATASETS}


@pytest.mark.parametrize("dataset", sorted(CASES))
def test_what_is_walked_past_is_told_by_name(tmp_path, dataset):
    _, strays = CASES[dataset]
    lay_out(tmp_path, dataset)
    before = read(tmp_path, dataset)
    assert not [d for d in before.defects if d.reason == "not_read"]
    lay_out(tmp_path, dataset, strays)
    found = read(tmp_path, dataset)
    told = [d.detail for d in found.defects if d.reason == "not_read"]
    for stray in strays:
        assert sum(stray in line for line in told) == 1, (stray, told)
    assert sum(int(line.split()[0]) for line in told) == len(strays)
    card = make_card(dataset, found, DataSettings(), synthetic=False)
    (table,) = (t for t in card_tables(card, {}) if t.title == "Faults that cost no row")
    assert [row[1:3] for row in table.rows if row[1] == "not_read"] == [("not_read", len(told))]
    assert len(found.utterances) == len(before.utterances) and found.rows == before.rows


@pytest.mark.parametrize(
    ("dataset", "path"),
    [
        ("meld", "README.txt"),
        ("meld", "train.tar.gz"),
        ("iemocap", "Documentation/mocap.pdf"),
        ("iemocap", "Session1/dialog/EmoEvaluation/Categorical/Ses01F_impro01_cat.txt"),
        ("iemocap", "Session1/sentences/ForcedAlignment/F/x.wdseg"),
        ("ravdess", "Audio_Speech_Actors_01-24.zip"),
        ("crema_d", "SentenceFilenames.csv"),
        ("crema_d", ".git/config"),
        ("multidialog", "metadata.jsonl"),
        ("topical_chat", "reading_sets/pre-build/test_freq.json"),
        ("dailydialog", "test/dialogues_act_test.txt"),
        ("dailydialog", "readme.txt"),
        ("empathetic_dialogues", "empatheticdialogues.tar.gz"),
    ],
)
def test_what_a_release_ships_and_nothing_needs_is_a_note(tmp_path, dataset, path):
    lay_out(tmp_path, dataset, [path])
    found = read(tmp_path, dataset)
    assert not [d for d in found.defects if d.reason == "not_read"]
    assert [n for n in found.notes if "that nothing here needs" in n and n.startswith(f"{dataset}: 1 ")]


def test_a_file_belongs_to_the_nearest_dataset(tmp_path):
    for dataset in CASES:
        lay_out(tmp_path / dataset, dataset)
    (tmp_path / "meld/train_splits/dia0_utt1.MP4").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "03-01-06-01-02-01.WAV").write_text("x")
    told = {r.dataset: r.not_read for r in find_datasets(tmp_path)}
    assert told.pop("meld") == ("1 *.MP4: meld/train_splits/dia0_utt1.MP4",)
    assert told.pop("crema_d") == ("1 *.WAV: 03-01-06-01-02-01.WAV",)  # all are as near, and it reads wavs
    assert told.pop("dailydialog") == ("1 *.txt: notes.txt",)
    assert not any(told.values())


def test_the_sample_has_nothing_that_is_walked_past(tmp_path):
    write_sample(tmp_path / "raw", media=False)
    assert all(r.not_read == () for r in find_datasets(tmp_path / "raw"))


def test_however_many_there_are_the_count_is_short(tmp_path):
    names = [f"a/{n}.x{n % 40}" for n in range(5000)] + ["a\x1b[31m\n.txt", "b", "c/", ".d"]
    lines = counted_by_suffix(names)
    assert len(lines) == 13 and all(len(line) < 700 and line.isprintable() for line in lines)
    assert sum(int(line.split()[0]) for line in lines) == 5004
    assert lines[0] == "125 *.x0: a/0.x0, a/40.x0, a/80.x0, …"


def test_where_nothing_is_known_the_error_says_what_lies_there(tmp_path):
    (tmp_path / "1040_ITH_SAD_X.wav").write_text("x")
    with pytest.raises(
        RawDataError, match=r"among 1 files \(1 \*\.wav: 1040_ITH_SAD_X\.wav\); looked for CREMA-D"
    ):
        find_datasets(tmp_path)


def test_members_of_archives_that_are_walked_past(tmp_path):
    lay_out(tmp_path, "multidialog")
    with tarfile.open(tmp_path / "train_chunks_0000.tar.gz", "w:gz") as archive:
        for name in (f"{CONVERSATION}_0k.wav", f"{CONVERSATION}_0k.WAV", f"{CONVERSATION}_1.wav"):
            archive.addfile(tarfile.TarInfo(f"{CONVERSATION}/{name}"), io.BytesIO())
    told = [d.detail for d in read(tmp_path, "multidialog").defects if d.reason == "not_read"]
    assert told == [
        f"train_chunks_0000.tar.gz: 1 *.WAV: {CONVERSATION}/{CONVERSATION}_0k.WAV",
        f"train_chunks_0000.tar.gz: 1 *.wav: {CONVERSATION}/{CONVERSATION}_1.wav",
    ]


def test_a_stray_file_makes_the_card_stale_and_is_named_as_the_reason(tmp_path):
    from storage.filestat import StatCache
    from tasks.engine.item import Item
    from tasks.engine.raw_files import read_raw_files
    from tasks.pipeline import UTTERANCES

    def parts():
        (source,) = read_raw_files(tmp_path / "raw", StatCache(tmp_path / "stats.sqlite"))
        return Item(UTTERANCES, "meld", {"source": source}).parts()

    lay_out(tmp_path / "raw", "meld")
    before = parts()
    lay_out(tmp_path / "raw", "meld", ["train_splits/dia0_utt1.MP4"])
    after = parts()
    assert before["setting"] == after["setting"]
    assert after["input"].keys() - before["input"].keys() == {"what lies beside meld's files"}
