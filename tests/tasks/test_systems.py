"""The systems of table 1 through their real engines' processes: what they are shown, what failed, and what is asked again."""

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest

from model.dialogue.settings import DialogueSettings
from model.generation.chatbot_engine import ChatbotEngine
from model.generation.client import EngineError
from model.generation.protocol import GenerationRequest, ServerError
from model.prompts import DIALOGUE
from storage.errors import InputError
from storage.sample.layout import write_sample
from storage.shards import read_table
from tasks.engine.declaration import Weights
from tasks.report.paper_tables import TABLE_1
from tasks.report.table_1 import NEEDED, _cost
from tasks.settings import ReplySettings, Settings, load_settings
from tasks.stages.systems.ask import ask_system
from tasks.stages.systems.settings import ChatbotSystem, EndpointSystem, PaperSystem
from tests.support.chat_server import completion
from tests.support.chatbots import KINDS, write_chatbot
from tests.support.rerun import run, session
from tests.support.two_dialogues import FIRST, SECOND, two_dialogues

pytestmark = pytest.mark.usefixtures("engines_of_its_own")

SETTINGS = ReplySettings(max_new_tokens=8)
HISTORY = DialogueSettings()


@pytest.fixture
def data(tmp_path):
    return two_dialogues(tmp_path, meld=("test",), iemocap=("test",))


def endpoint(server, **changes) -> dict:
    """As a profile says it."""
    asked = {"base_url": server.url, "model": "some-7b", "concurrency": 1, "backoff_s": 0.01, "retries": 2}
    return {"kind": "endpoint", "name": "some", "server": asked | changes}


def ask(data, system, weights=None, dialogue=HISTORY) -> tuple[list[dict], list[dict], dict]:
    """Replies, rejects and facts of one call."""
    named = weights or Weights(name=system.server.model, identity=f"served:{system.server.model}")
    made = ask_system(system, named, data.utterances, data.exchanges, SETTINGS, dialogue, data.work)
    replies, rejects, facts = (data.store.read(ref) for ref in made)
    assert [ref.name for ref in made] == [
        f"replies/all/test/{system.row}",
        f"rejects/{system.row}",
        f"{system.name}.json",
    ]
    return read_table(replies, "replies"), read_table(rejects, "rejects"), json.loads(facts)


def test_an_endpoint_is_given_table_6_with_the_history_and_answers_greedily(data, chat_server):
    system = EndpointSystem.model_validate(endpoint(chat_server))
    rows, rejects, facts = ask(data, system)
    bodies = [body for *_, body in chat_server.asked]
    assert {(b["temperature"], b["top_p"], b["max_tokens"], len(b["messages"])) for b in bodies} == {
        (0, 1, 8, 1)
    }
    prompts = {body["messages"][0]["content"]: body for body in bodies}
    lines = [
        f"{'gpt' if who == 'Ross' else 'human' if who == 'Monica' else 'human2'}: {text}"
        for who, text, _ in FIRST.values()
    ]
    last = f"{DIALOGUE}\nhistory: {chr(10).join(lines[:4])}\nsentence: {FIRST[5][1]}"
    first = f"{DIALOGUE}\nsentence: {SECOND[0][1]}"
    assert last in prompts and first in prompts and len(prompts) == len(rows) == 6
    by_turn = {(row["dataset"], row["turn"]): row for row in rows}
    row = by_turn["meld", 5]
    assert row["reply"] == chat_server.text(prompts[last]) and row["reference"] == FIRST[6][1]
    assert (row["rung"], row["prompt_tokens"], row["reply_tokens"]) == ("system-some", 7, 5)
    assert row["reference_nats"] is None and not rejects
    counted = {
        name: facts[name] for name in ("exchanges", "answered", "failures", "prompts", "retries", "uncounted")
    }
    assert counted == {
        "exchanges": 6,
        "answered": 6,
        "failures": {},
        "prompts": 6,
        "retries": 0,
        "uncounted": 0,
    }
    assert (facts["prompt_tokens"], facts["reply_tokens"]) == (42, 30)
    assert facts["model"].startswith("served:some-7b@") and facts["identity"]["models"]["id"] == "some-7b"
    short = ask(data, system, dialogue=_turns(1))[0]
    (again,) = [b for *_, b in chat_server.asked[6:] if b["messages"][0]["content"].endswith(FIRST[5][1])]
    assert f"history: {lines[3]}\nsentence" in again["messages"][0]["content"] and len(short) == 6


def _turns(turns: int) -> DialogueSettings:
    return HISTORY.model_copy(update={"max_history_utterances": turns})


def test_a_call_that_fails_is_a_reject_and_no_reply_and_tries_are_counted(data, chat_server):
    """One is filtered, one makes no sense however often it is asked, one succeeds at the third try."""
    tried: list[str] = []

    def faults(_, request):
        sentence = request["messages"][0]["content"].rsplit("sentence: ", 1)[1]
        tried.append(sentence)
        if sentence == FIRST[0][1]:
            return "content_filter"
        if sentence == FIRST[5][1]:
            return (200, {}, completion({"content": 7}))
        return 503 if sentence == SECOND[0][1] and tried.count(sentence) < 3 else None

    chat_server.faults = faults
    system = EndpointSystem.model_validate(endpoint(chat_server))
    rows, rejects, facts = ask(data, system)
    assert {(r["dataset"], r["turn"], r["reason"], r["stage"]) for r in rejects} == {
        ("meld", 0, "filtered", "systems"), ("meld", 5, "malformed", "systems"),
    }  # fmt: skip
    assert len(rows) == 4 and all(row["reply"].startswith("Word ") for row in rows)
    assert facts["failures"] == {"filtered": 1, "malformed": 1} and facts["answered"] == 4
    # Two further tries of the third, and of the one that never made sense.
    assert facts["retries"] == 4 and facts["prompts"] == 6
    chat_server.faults, before = (lambda *_: None), len(chat_server.asked)
    rows, rejects, facts = ask(data, system)
    # What may do better another day is asked again; a refusal is an answer.
    assert len(chat_server.asked) == before + 1 and len(rows) == 5 and facts["failures"] == {"filtered": 1}


@pytest.mark.parametrize(
    ("more", "least"),
    [({}, False), ({"uncounted": 1}, True), ({"retries": 2}, True), ({"failures": {"no_answer": 1}}, True)],
)
def test_a_cost_is_at_least_wherever_something_may_have_been_paid_that_was_not_counted(more, least):
    """A row given up has no tokens, and one tried again those of its last try alone."""
    system = EndpointSystem.model_validate(
        {"name": "o", "server": {"model": "o"}, "prices": {"prompt": 2.0, "reply": 8.0}}
    )
    counts = {"prompt_tokens": 500_000, "reply_tokens": 250_000, "uncounted": 0, "retries": 0, "failures": {}}
    assert _cost(system, counts | more) == {"amount": 3.0, "currency": "USD", "least": least}


def test_what_was_paid_for_is_not_asked_again_for_other_code(data, chat_server):
    system = EndpointSystem.model_validate(endpoint(chat_server))
    first = ask(data, system)
    data.work.basis = "other code"
    assert ask(data, system) == first and len(chat_server.asked) == 6
    other = EndpointSystem.model_validate(endpoint(chat_server, model="other-7b"))
    ask(data, other)
    assert len(chat_server.asked) == 12
    chat_server.weights = "b"  # under the old name
    again = ask(data, system)
    assert len(chat_server.asked) == 18 and again[2]["model"] != first[2]["model"]
    assert not {row["reply"] for row in again[0]} & {row["reply"] for row in first[0]}


def test_an_endpoint_that_comes_back_with_other_weights_is_one_line_and_no_rows_are_mixed(data, chat_server):
    """It dies after three answers and comes back with other weights; then they change in mid-run."""
    system = EndpointSystem.model_validate(endpoint(chat_server, retries=0))
    chat_server.faults = lambda number, _: "drop" if number > 3 else None
    with pytest.raises(EngineError, match="finished rows are kept") as failure:
        ask(data, system)
    assert "\n" not in str(failure.value)
    asked = len(chat_server.asked)
    chat_server.faults, chat_server.weights = (lambda *_: None), "b"
    rows = ask(data, system)[0]
    assert len(chat_server.asked) - asked == 6  # the three of the first are not taken for the second's
    assert {row["reply"] for row in rows} == {
        chat_server.text(body) for *_, body in chat_server.asked[asked:]
    }

    def change(number, _):
        if number == 3:
            chat_server.weights = "d"

    chat_server.weights = "c"
    chat_server.asked.clear()
    chat_server.faults = change
    with pytest.raises(ServerError, match="another model answers to 'some-7b'.*--force systems") as failure:
        ask(data, system)
    assert "\n" not in str(failure.value)


def test_messages_name_the_systems_own_settings(data, chat_server):
    chat_server.faults = lambda *_: (404, {}, '{"error": {"message": "no such model"}}')
    system = EndpointSystem.model_validate(endpoint(chat_server))
    with pytest.raises(EngineError, match=r"status 404 .*check systems\.some\.server\.model"):
        ask(data, system)
    with pytest.raises(ValueError, match=r"systems\.some\.server\.model is empty"):
        ask(data, EndpointSystem.model_validate(endpoint(chat_server, model="")))


@pytest.mark.parametrize("kind", KINDS)
def test_a_chatbot_is_given_the_turns_and_nothing_else(data, tmp_path, kind):
    folder = write_chatbot(tmp_path / kind, kind)
    system = ChatbotSystem(name=kind, weights=str(folder), title="A chatbot")
    rows, rejects, facts = ask(data, system, Weights(name=str(folder), identity="folder:x"))
    assert len(rows) + len(rejects) == 6 == facts["exchanges"] and facts["answered"] == len(rows)
    assert {reject["reason"] for reject in rejects} <= {"garbled"}  # a random model writes bytes
    engine = ChatbotEngine(system.engine(str(folder), SETTINGS.max_new_tokens))
    turns = [FIRST[turn][1] for turn in (0, 1, 2, 3, 5)]
    messages = tuple({"role": "user", "content": text} for text in turns)  # roles tell it nothing
    (alone,) = engine.generate([GenerationRequest("a", messages, 0)])
    said = {row["turn"]: row["reply"] for row in rows if row["dataset"] == "meld"}
    assert (alone.finish_reason == "garbled") == (5 not in said) and said.get(5, alone.text) == alone.text
    assert facts["prompt_tokens"] > facts["reply_tokens"] > 0 and facts["retries"] == 0


def test_each_system_of_table_1_is_a_rung_or_says_what_it_needs_and_names_are_told_apart():
    assert set(get_args(PaperSystem)) == {name for name in NEEDED if not name.endswith("†")}
    assert len(NEEDED) == 5 and set(NEEDED) < set(TABLE_1)
    one = {"kind": "chatbot", "name": "a", "weights": "tiny-llm"}
    with pytest.raises(ValueError, match="a stands there twice"):
        Settings.model_validate({"systems": [one, {**one, "title": "another"}]})
    with pytest.raises(InputError, match=r"setting systems\.0\.chatbot\.name"):
        load_settings("tiny", [f"systems={json.dumps([{**one, 'name': 'A b'}])}"])
    with pytest.raises(InputError, match=r"systems\.0"):
        load_settings("tiny", [f"systems={json.dumps([{**one, 'kind': 'oracle'}])}"])


# As a stage ------------------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path) -> Path:
    write_sample(tmp_path / "raw", media=False, dialogues=2, turns=6)
    for tree in ("MultiDialog", "IEMOCAP_full_release"):
        shutil.rmtree(tmp_path / "raw" / tree)
    return tmp_path / "raw"


@pytest.mark.slow
def test_systems_answer_what_the_rungs_answer_each_an_item_and_titles_and_prices_ask_nobody(
    tmp_path, raw, chat_server
):
    system = endpoint(chat_server)
    other = {**endpoint(chat_server, model="other-7b"), "name": "other"}

    def opened(*systems: dict):
        return session("tiny", tmp_path / "store", raw, [f"systems={json.dumps(systems)}"])

    with opened(system) as one:
        ran = run(one, "systems")
        assert [name for name in ran if name.startswith("systems")] == ["systems some"]
        run(one, "replies.1-llm")
        plans = {plan.stage.name: plan for name in ("systems", "replies.1-llm") for plan in one.plan(name)}
        keys = {}
        for name in ("systems", "replies.1-llm"):
            (ref,) = [
                r for refs in plans[name].outputs.values() for r in refs if r.name.startswith("replies/")
            ]
            rows = read_table(one.store.read(ref), "replies")
            keys[name] = {(r["split"], r["dialogue_id"], r["turn"], r["reference"]) for r in rows}
    assert keys["systems"] == keys["replies.1-llm"] and keys["systems"]
    asked = len(chat_server.asked)
    with opened(
        {**system, "title": "Some 7B", "paper": "GPT-4o", "prices": {"prompt": 1, "reply": 2}}, other
    ) as two:
        assert [name for name in run(two, "systems") if name.startswith("systems")] == ["systems other"]
    assert len(chat_server.asked) == 2 * asked
    chat_server.shutdown(), chat_server.server_close()
    with opened(system, other) as three:
        assert run(three, "systems") == []
    with session("tiny", tmp_path / "store", raw) as none:
        assert "systems" not in {plan.stage.name for plan in none.plan()}
