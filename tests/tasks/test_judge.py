"""The judge through its engine's process, against a server that is consistent, one that likes a place, and one that fails."""

import json

import pytest

from model.metrics.settings import BootstrapSettings
from storage.answers import Reply
from storage.shards import reply_to_row, utterance_to_row
from storage.store import Store
from storage.utterance import Utterance
from tasks.engine.declaration import Made, NotRun, Weights
from tasks.engine.item import Workspace
from tasks.report.table_1 import titles_of
from tasks.settings import load_settings
from tasks.stages.floors import BESIDE, replies_beside
from tasks.stages.judge.compare import judge_pair
from tasks.stages.judge.settings import JudgeSettings
from tasks.stages.judge.stage import JUDGE
from tasks.stages.shards import write_shard
from tests.support.chat_server import completion

pytestmark = pytest.mark.usefixtures("engines_of_its_own")

DIALOGUES = 8


@pytest.fixture
def work(tmp_path) -> Workspace:
    return Workspace(Store(tmp_path / "store"), None, "basis", lambda *_: None)


def replies(work: Workspace, name: str, texts: list[str]):
    """A dialogue each; turn 1 is answered."""
    rows = [
        Reply("meld", "test", f"d{i}", 1, name, f"I lost my keys, all {i} of them.", "true", text)
        for i, text in enumerate(texts)
    ]
    return write_shard(work.store, "replies", f"replies/all/test/{name}", [reply_to_row(row) for row in rows])


def utterances(work: Workspace):
    said = [
        Utterance("meld", "test", f"d{i}", turn, "AB"[turn % 2], text, None, None)
        for i in range(DIALOGUES)
        for turn, text in enumerate(("Hello there.", f"I lost my keys, all {i} of them.", "true"))
    ]
    return [
        write_shard(work.store, "utterances", "utterances/meld/test/0", [utterance_to_row(u) for u in said])
    ]


def judged(work, server, first: list[str], second: list[str], **changes) -> dict:
    asked = {"base_url": server.url, "model": "judge-7b", "concurrency": 1, "backoff_s": 0.01, "retries": 1}
    settings = JudgeSettings(server=asked | changes.pop("server", {}), **changes)
    llm = Weights(name="judge-7b", identity="served:judge-7b")
    pair = (replies(work, "5-epo", first), replies(work, "system-x", second))
    (ref,) = judge_pair(*pair, utterances(work), llm, settings, BootstrapSettings(), work)
    assert ref.name == "judge-system-x.json"
    return json.loads(work.store.read(ref))


def shown(request: dict) -> tuple[str, str]:
    lines = request["messages"][0]["content"].split("\n")
    return lines[-2].removeprefix("reply A: "), lines[-1].removeprefix("reply B: ")


def says(empathy: str, fit: str) -> tuple:
    return (200, {}, completion({"content": f"empathy: {empathy}\nfit: {fit}"}))


def test_a_judge_that_knows_what_it_likes_gives_verdicts_and_a_place_it_likes_gives_none(work, chat_server):
    """It likes the longer reply in empathy, and whatever is first in fit."""

    def answer(_, request):
        a, b = shown(request)
        return says("A" if len(a) > len(b) else "B", "A")

    chat_server.faults = answer
    found = judged(work, chat_server, ["I am so sorry."] * 7 + ["Okay."], ["Oh."] * 7 + ["Okay."])
    assert (found["common"], found["exchanges"], found["identical"], found["judged"], found["calls"]) == (
        8,
        8,
        1,
        7,
        14,
    )
    prompt = chat_server.asked[0][2]["messages"][0]["content"]
    assert "history: gpt: Hello there.\nsentence: I lost my keys" in prompt
    empathy, fit = found["questions"]["empathy"], found["questions"]["fit"]
    assert (empathy["agreed"], empathy["first"], empathy["tie"], empathy["second"]) == (7, 7, 0, 0)
    # Wilson's interval of 7 of 7: its low end is 1 / (1 + 1.96² / 7).
    assert (
        empathy["share"] == pytest.approx([1, 1 / (1 + 1.959964**2 / 7), 1], abs=1e-5)
        and empathy["grade"] == "first"
    )
    assert fit["agreed"] == 0 and fit["agreement"][0] == 0 and fit["share"] is None
    assert fit["grade"] == "not distinguishable" and all(row["fit"] is None for row in found["rows"])
    chat_server.faults, asked = (lambda *_: says("tie", "tie")), len(chat_server.asked)
    again = judged(work, chat_server, ["I am so sorry."] * 7 + ["Okay."], ["Oh."] * 7 + ["Okay."])
    assert again == found and len(chat_server.asked) == asked


def test_a_call_that_fails_is_a_failure_and_never_a_score(work, chat_server):
    def answer(_, request):
        words = " ".join(request["messages"][0]["content"].split())
        a, b = shown(request)
        if "all 0 of" in words:
            return "content_filter" if a.startswith("no") else says("A", "A")
        if "all 1 of" in words:
            return (200, {}, completion({"content": "Both are lovely."}))
        if "all 2 of" in words:
            return (200, {}, completion({"content": 7}))
        return says("tie", "B" if b.startswith("yes") else "A")

    chat_server.faults = answer
    found = judged(work, chat_server, [f"yes {i}" for i in range(8)], [f"no {i}" for i in range(8)])
    assert found["failures"] == {"filtered": 1, "malformed": 1, "unreadable": 1} and found["judged"] == 5
    assert found["retries"] == 2  # one further try of each of the two that made no sense
    empathy, fit = found["questions"]["empathy"], found["questions"]["fit"]
    assert (empathy["agreed"], empathy["tie"], empathy["share"]) == (5, 5, None)
    assert (fit["first"], fit["second"], fit["dialogues"], fit["grade"]) == (5, 0, 5, "first")
    assert sum(row["failure"] is not None and row["fit"] is None for row in found["rows"]) == 3


def test_few_exchanges_are_drawn_and_only_those_that_both_answered(work, chat_server):
    chat_server.faults = lambda *_: says("tie", "tie")
    found = judged(work, chat_server, [f"a {i}" for i in range(8)], [f"b {i}" for i in range(5)], exchanges=3)
    assert (found["common"], found["exchanges"], found["calls"]) == (5, 3, 6)


def test_floors_and_the_true_reply_stand_beside_the_last_rung_where_they_are_named(work, chat_server):
    """A judge that likes the longer reply; the last rung says "Okay." once, the true reply once, else something longer."""
    longer = lambda a, b: "A" if len(a) > len(b) else "B"  # noqa: E731
    chat_server.faults = lambda _, request: says(*[longer(*shown(request))] * 2)
    server = {"base_url": chat_server.url, "model": "judge-7b"}
    settings = JudgeSettings(server=server, against=tuple(BESIDE))
    said = ["Okay.", "true 1.", *(f"I am so sorry, {i}." for i in range(2, DIALOGUES))]
    rows = [
        Reply("meld", "test", f"d{i}", 1, "5-epo", "I lost my keys.", f"true {i}.", text)
        for i, text in enumerate(said)
    ]
    ref = write_shard(work.store, "replies", "replies/all/test/5-epo", [reply_to_row(row) for row in rows])
    made = Made(
        load_settings("tiny", [f"judge={settings.model_dump_json()}"]),
        "tiny",
        work.store,
        (),
        {"utterances": {"meld": tuple(utterances(work))}, "replies.5-epo": {"all": (ref,)}},
        (),
    )
    found = {}
    for name, call in JUDGE.items(made).items():
        (judged,) = judge_pair(**call, settings=settings, intervals=BootstrapSettings(), work=work)
        assert judged.name == f"judge-{name}.json"
        found[name] = json.loads(work.store.read(judged))
    assert list(found) == [one["second"] for one in found.values()] == ["floor-okay", "floor-people", "human"]
    okay, people, human = found.values()
    assert (okay["identical"], okay["judged"], okay["questions"]["fit"]["first"]) == (1, 7, 7)
    fit = human["questions"]["fit"]
    assert (human["identical"], fit["first"], fit["second"]) == (1, 6, 1)
    assert people["judged"] == DIALOGUES and people["questions"]["fit"]["first"] == 6
    asked = {text for _, _, request in chat_server.asked for text in shown(request)}
    assert asked == {*said, "Okay.", *(f"true {i}." for i in range(DIALOGUES))}
    assert titles_of([])["human"] == "the true reply" and titles_of([])["floor-okay"] == 'always "Okay."'


def test_another_dialogues_reply_is_never_the_exchanges_own_and_of_one_dialogue_there_is_none():
    rows = [Reply("meld", "test", f"d{i}", 1, "5-epo", "?", f"true {i}.", "said") for i in range(4)]
    others = replies_beside("floor-people", rows)
    assert [row.key for row in others] == [row.key for row in rows]
    assert all(row.reply != row.reference and row.reply.startswith("true") for row in others)
    assert replies_beside("floor-people", rows[:1]) == []
    assert [row.reply for row in replies_beside("human", rows)] == [row.reference for row in rows]


def test_the_last_rung_is_beside_all_that_answered_or_those_that_are_named(work):
    def items(*against: str):
        judge = {"server": {"model": "judge-7b"}, "against": against}
        settings = load_settings("tiny", [f"judge={json.dumps(judge)}"])
        outputs = {
            "utterances": {"meld": tuple(utterances(work))},
            "replies.1-llm": {"all": (replies(work, "1-llm", ["a"]),)},
            "replies.4-av": None,
            "replies.5-epo": {"all": (replies(work, "5-epo", ["b"]),)},
            "systems": {"x": (replies(work, "system-x", ["c"]),), "y": (replies(work, "system-y", []),)},
        }
        return JUDGE.items(Made(settings, "tiny", work.store, (), outputs, ()))

    assert list(items()) == ["1-llm", "system-x"]
    assert list(items("system-x")) == ["system-x"]
    assert list(items("1-llm", "human")) == ["1-llm", "human"]
    found = items("4-av")
    assert isinstance(found, NotRun) and "4-av" in found.reason
    assert not JUDGE.enabled(load_settings("tiny"))
