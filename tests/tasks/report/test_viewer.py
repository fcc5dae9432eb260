"""The viewer's samples: all exchanges up to a bound, what came before each, every reply, and figures by system."""

import json

import pytest

from storage.answers import Reply
from storage.shards import reply_to_row, utterance_to_row
from storage.store import Store, canonical
from storage.utterance import Utterance
from tasks.engine.item import Workspace
from tasks.report import viewer
from tasks.report.samples import reply_examples
from tasks.report.viewer import as_script, viewer_samples
from tasks.stages.shards import write_shard

SAID = [f"line {turn}" for turn in range(10)]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def artefacts(store: Store) -> dict:
    """A dialogue of ten turns in test and one that nobody answers; two rungs, of which the second left turn 8 out."""
    work = Workspace(store, None, "basis", lambda *_: None)
    spoken = [
        utterance_to_row(Utterance("meld", "test", name, turn, speaker="AB"[turn % 2], text=f"{text}{name}"))
        for name in ("7", "8")
        for turn, text in enumerate(SAID)
    ]
    replies = {
        "1-llm": [reply(turn, "1-llm", f"first {turn}") for turn in (0, 8)],
        "2-ft": [reply(0, "2-ft", "</script><b>second")],
    }
    by_reply = {
        "exchanges": [["meld", "test", "7", turn, "digest"] for turn in (0, 8)],
        "figures": {
            "1-llm": {"emotioncontrast_second": [0.25, None], "bertscore": [0.5, 0.75]},
            "2-ft": {"emotioncontrast_second": [-0.5, None], "bertscore": [0.1, None]},
        },
    }
    return {
        "utterances": [write_shard(store, "utterances", "utterances/meld/test/0", spoken)],
        "replies": [
            write_shard(store, "replies", f"replies/all/test/{rung}", [reply_to_row(r) for r in rows])
            for rung, rows in replies.items()
        ],
        "metrics": [work.store.put_bytes("by_reply.json", canonical(by_reply))],
    }


def reply(turn: int, rung: str, text: str) -> Reply:
    return Reply(
        "meld", "test", "7", turn, rung=rung, sentence=f"{SAID[turn]}7", reference=f"{SAID[turn + 1]}7", reply=text,
        sentence_emotion=None, reference_emotion="sad", prompt_tokens=3,
    )  # fmt: skip


def test_a_sample_has_what_was_said_before_every_reply_and_its_figures(store):
    found = viewer_samples(artefacts(store), store)
    assert found["exchanges"] == 2 and found["systems"] == ["1-llm", "2-ft"]
    rows = {row["place"]: row for row in found["rows"]}
    late, early = rows["7, turn 8"], rows["7, turn 0"]
    assert late["history"] == [("AB"[turn % 2], f"line {turn}7") for turn in range(2, 8)]
    assert (late["speaker"], late["sentence"], late["reference"]) == ("A", "line 87", "line 97")
    assert late["replies"] == {"1-llm": "first 8"} and late["figures"] == {"1-llm": [None, None, 0.75]}
    assert early["history"] == [] and early["emotion"] == "sad"
    assert early["figures"] == {"1-llm": [0.25, None, 0.5], "2-ft": [-0.5, None, 0.1]}


def test_a_case_study_has_the_last_turns_before_its_sentence(store):
    """Exchanges that both rungs answered: turn 0, which nothing precedes; and, once the second answers it, turn 8."""
    made = artefacts(store)
    (found,) = reply_examples(made, store)
    assert found["turn"] == 0 and found["history"] == []
    more = [reply_to_row(reply(turn, "2-ft", "x")) for turn in (0, 8)]
    made["replies"][1] = write_shard(store, "replies", "replies/all/test/2-ft", more)
    late = next(example for example in reply_examples(made, store) if example["turn"] == 8)
    assert late["history"] == [("AB"[turn % 2], f"line {turn}7") for turn in range(4, 8)]
    assert late["sentence"] == "line 87"


def test_no_text_ends_the_script_that_holds_it(store):
    found = viewer_samples(artefacts(store), store)
    script = as_script(found)
    assert "<" not in script and json.loads(script) == json.loads(json.dumps(found))


def test_a_bound_leaves_a_seeded_few_and_says_of_how_many(store, monkeypatch):
    monkeypatch.setattr(viewer, "MOST", 1)
    made = artefacts(store)
    found = viewer_samples(made, store)
    assert len(found["rows"]) == 1 and found["exchanges"] == 2
    assert viewer_samples(made, store) == found


def test_a_long_text_is_cut_and_counted(store):
    made = artefacts(store)
    long = [reply_to_row(reply(0, "3-mc", text)) for text in ("x" * 10_000,)]
    fits = [reply_to_row(reply(8, "3-mc", "y" * 1000))]
    made["replies"].append(write_shard(store, "replies", "replies/all/test/3-mc", long + fits))
    found = viewer_samples(made, store)
    said = {row["place"]: row["replies"]["3-mc"] for row in found["rows"]}
    assert said == {"7, turn 0": "x" * 1000 + "…", "7, turn 8": "y" * 1000} and found["cut"] == 1


def test_rows_past_the_bytes_are_left_out(store, monkeypatch):
    """Bytes as they stand in the page, where "<" takes six."""
    made = artefacts(store)
    first, second = viewer_samples(made, store)["rows"]
    sizes = [len(as_script(row).encode()) + 1 for row in (first, second)]
    for room, kept in ((sum(sizes), 2), (sum(sizes) - 1, 1), (sizes[0] - 1, 0)):
        monkeypatch.setattr(viewer, "BYTES", room)
        assert len(viewer_samples(made, store)["rows"]) == kept


def test_without_replies_there_is_nothing_to_look_through(store):
    assert viewer_samples({"replies": [], "utterances": []}, store) is None
