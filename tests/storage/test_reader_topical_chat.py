"""Topical-Chat: the real valid files with their golden counts, and small ones in the release's layout."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from storage.exchanges import cut_exchanges
from storage.filestat import content_digest
from storage.labels import LabelError
from storage.readers.find import RawDataError, find_datasets, read_dataset
from storage.settings import DataSettings

SHARED = Path(__file__).resolve().parents[2] / "../shared/data/topical_chat"

needs_scripts = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared Topical-Chat scripts are not here")


def turn(message="Hi.", agent="agent_1", sentiment="Happy"):
    return {
        "message": message,
        "agent": agent,
        "sentiment": sentiment,
        "knowledge_source": [],
        "turn_rating": "",
    }


def write(root, name, conversations):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    whole = {
        key: {"article_url": "", "config": "A", "content": turns, "conversation_rating": {}}
        for key, turns in conversations.items()
    }
    (root / name).write_text(json.dumps(whole))


def read_all(root, **settings):
    raw = next(r for r in find_datasets(root) if r.dataset == "topical_chat")
    return read_dataset(raw, root, DataSettings(**settings), content_digest)


@needs_scripts
def test_real_counts(tmp_path):
    """The table of labels per file was counted apart from this reader."""
    for name in ("valid_freq.json", "valid_rare.json"):
        (tmp_path / "conversations").mkdir(exist_ok=True)
        shutil.copy(SHARED / name, tmp_path / "conversations" / name)
    found = read_all(tmp_path)
    assert len(found.utterances) == found.rows == 11_681 + 11_692 and not found.rejects
    assert {u.split for u in found.utterances} == {"dev"}
    assert len({u.dialogue_id for u in found.utterances}) == 2 * 539
    assert Counter(u.emotion_raw for u in found.utterances) == {
        "Curious to dive deeper": 5027 + 4836, "Neutral": 2521 + 2546, "Happy": 1670 + 1900,
        "Surprised": 2030 + 2090, "Disgusted": 136 + 79, "Sad": 159 + 147, "Angry": 105 + 47, "Fearful": 33 + 47,
    }  # fmt: skip
    assert Counter(u.emotion for u in found.utterances)["neutral"] == 5027 + 4836 + 2521 + 2546
    exchanges, fallen = cut_exchanges(found.utterances)
    assert len(exchanges) == 11_681 + 11_692 - 2 * 539 and not fallen  # speakers alternate everywhere
    first = next(u for u in found.utterances if u.dialogue_id.startswith("t_ffa55df6"))
    assert (first.turn, first.speaker) == (0, "agent_1")
    assert first.text == "Case Keenum lined up a deal with the Broncos and will become their new starter"
    assert not [u for u in found.utterances if "\n" in u.text or u.text != u.text.strip()]
    curious = read_all(tmp_path, labels={"topical_chat_curious": None})
    assert sum(u.emotion is None for u in curious.utterances) == 5027 + 4836


def test_five_files_in_three_splits(tmp_path):
    names = ("train", "valid_freq", "valid_rare", "test_freq", "test_rare")
    for number, name in enumerate(names):
        write(
            tmp_path / "conversations",
            f"{name}.json",
            {f"t_{number}": [turn(), turn("Ho.\n", "agent_2", "Sad")]},
        )
    write(tmp_path / "reading_sets/post-build", "test_freq.json", {"t_9": [turn()]})
    found = read_all(tmp_path)
    assert Counter(u.split for u in found.utterances) == {"train": 2, "dev": 4, "test": 4}
    assert [(u.speaker, u.text, u.emotion) for u in found.utterances if u.dialogue_id == "t_0"] == [
        ("agent_1", "Hi.", "happy"), ("agent_2", "Ho.", "sad"),
    ]  # fmt: skip
    assert any("that nothing here needs" in note for note in found.notes)


def test_a_train_file_alone_is_anybodys(tmp_path):
    write(tmp_path, "train.json", {"t_0": [turn()]})
    with pytest.raises(RawDataError, match="no known dataset"):
        find_datasets(tmp_path)
    write(tmp_path, "test_rare.json", {"t_1": [turn()]})
    assert {u.split for u in read_all(tmp_path, validation_share=0.5).utterances} == {"train", "test"}


def test_a_conversation_of_test_is_taken_out_of_train(tmp_path):
    write(tmp_path, "train.json", {"t_0": [turn(), turn()], "t_1": [turn()]})
    write(tmp_path, "test_freq.json", {"t_0": [turn(), turn()]})
    found = read_all(tmp_path)
    assert [(r.split, r.reason) for r in found.rejects] == [("train", "dialogue_in_two_splits")] * 2
    assert {(u.split, u.dialogue_id) for u in found.utterances if u.split == "test"} == {("test", "t_0")}


def test_what_is_no_turn_is_rejected_and_numbers_stay(tmp_path):
    content = [
        turn(),
        turn(" \n"),
        {"message": 3, "agent": "agent_1", "sentiment": "Sad"},
        "x",
        turn("\ud83d"),
        turn("End."),
    ]
    write(tmp_path, "test_freq.json", {"t_0": content})
    raw = json.loads((tmp_path / "test_freq.json").read_text())
    raw["t_1"], raw["t_\x1b[31m"] = ["no object"], {"content": []}
    (tmp_path / "test_freq.json").write_text(json.dumps(raw))
    found = read_all(tmp_path)
    assert [(u.turn, u.text) for u in found.utterances] == [(0, "Hi."), (5, "End.")]
    assert Counter(r.reason for r in found.rejects) == {"empty_text": 1, "bad_row": 3, "bad_conversation": 2}
    assert all(r.detail.isprintable() for r in found.rejects)


@pytest.mark.parametrize(
    "content", ["[1]", "{", '{"t": ' + "[" * 100_000, '{"t": {"content": [1]}}', "9" * 9000]
)
def test_a_file_of_another_kind_is_one_line(tmp_path, content):
    (tmp_path / "test_freq.json").write_text(content)
    with pytest.raises(RawDataError, match=r"^test_freq\.json: ") as error:
        read_all(tmp_path)
    assert "\n" not in str(error.value)


def test_a_foreign_sentiment_names_the_setting(tmp_path):
    write(tmp_path, "test_freq.json", {"t_0": [turn(sentiment="Amused")]})
    with pytest.raises(
        LabelError,
        match=r"test_freq\.json t_0 turn 0: unknown topical_chat emotion 'Amused'.*data\.labels\.map",
    ) as told:
        read_all(tmp_path)
    assert "storage/" not in str(told.value)
    assert read_all(tmp_path, labels={"map": {"Amused": "happy"}}).utterances[0].emotion == "happy"
    mapped = {"map": {"topical_chat/amused": None, "amused": "sad"}}
    assert read_all(tmp_path, labels=mapped).utterances[0].emotion is None
