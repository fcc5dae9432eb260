"""The dialogues and turns that a reason names."""

from dataclasses import replace

import pytest

from storage.shards import utterance_to_row, write_table
from storage.store import Ref, Store
from storage.utterance import Utterance
from tasks.engine.row_differences import NAMED, changed_dialogues


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def turns(dialogue: str, *texts: str) -> list[Utterance]:
    return [
        Utterance("meld", "train", dialogue, i, "Ross", text, "happy", "joy") for i, text in enumerate(texts)
    ]


def shard(store: Store, utterances: list[Utterance], name: str = "utterances/meld/train/0") -> Ref:
    rows = [utterance_to_row(u) for u in utterances]
    return store.put_bytes(name, write_table(rows, "utterances"), rows=len(rows))


def test_changed_new_and_gone_are_told_by_dialogue_and_turn(store):
    old = shard(store, [*turns("2", "a", "b"), *turns("10", "c"), *turns("11", "d", "e")])
    two = turns("2", "a", "B")
    two[1] = replace(two[1], emotion="sad")
    new = shard(store, [*two, *turns("9", "f"), *turns("11", "d")])
    assert changed_dialogues(store, [old], [new]) == [
        "meld/train dialogue 2: turn 1 (text, emotion)",
        "meld/train dialogue 9: new",
        "meld/train dialogue 10: gone",
        "meld/train dialogue 11: turn 1 (gone)",
    ]


def test_many_dialogues_are_counted(store):
    old = shard(store, [u for n in range(12) for u in turns(str(n), "a")])
    new = shard(store, [u for n in range(12) for u in turns(str(n), "b")])
    lines = changed_dialogues(store, [old], [new])
    assert len(lines) == NAMED + 1 and lines[-1] == "and 7 more dialogues"


def test_a_shard_that_is_gone_names_nothing(store):
    old = shard(store, turns("1", "a"))
    new = shard(store, turns("1", "b"))
    store.drop(old)
    assert changed_dialogues(store, [old], [new]) == []


def test_what_is_no_shard_is_not_read(store):
    old, new = store.put_bytes("card/meld", b"1"), store.put_bytes("card/meld", b"2")
    assert changed_dialogues(store, [old], [new]) == []
