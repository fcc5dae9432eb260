"""Candidates through real worker and engine processes: rows survive kills, and only what changed is asked again."""

import csv
import json
import os
import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from model.candidates.prompts import candidate_prompt
from model.candidates.settings import CandidateSettings
from model.generation.settings import TRANSPORT_FIELDS, ServerSettings
from tasks.engine.jobs import StageFailed
from tasks.settings import setting_names
from tests.support.changed_sentence import change_one_sentence
from tests.support.chat_server import completion
from tests.support.waiting import wait_for

STORED_ANSWERS = "select count(*) from rows where cast(value as text) like '{%'"


def engines() -> list[int]:
    """Process ids of engines that this test process has started, through whatever worker."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"model.generation.worker" in (entry / "cmdline").read_bytes() and _is_ours(int(entry.name)):
                found.append(int(entry.name))
        except (OSError, ProcessLookupError):
            continue
    return found


def _is_ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return False


def test_one_changed_sentence_is_eight_rows(pipeline, chat_server):
    rows = pipeline.run()
    prompts = {row["prompt"] for row in rows}
    assert len(chat_server.asked) == len(prompts) and set(chat_server.answered.values()) == {1}
    (weights,) = {row["weights"] for row in rows}
    assert re.fullmatch(r"served:some-7b@[0-9a-f]{12}", weights)
    assert {json.loads(row["settings"])["temperature"] for row in rows} == {0.8}
    assert engines() == []
    change_one_sentence(pipeline.raw, prompts)
    chat_server.asked.clear()
    again = pipeline.run()
    assert len(chat_server.asked) == 8 and len(again) == len(rows)
    assert all("Truly." in body["messages"][-1]["content"] for _, _, body in chat_server.asked)


def test_forced_candidates_are_asked_for_again_and_no_other_models_rows_are_lost(pipeline, chat_server):
    one, other = "candidates.server.model=some-7b", "candidates.server.model=other-7b"
    for model in (one, other):
        pipeline.run(model)

    def stored() -> set[str]:
        with closing(sqlite3.connect(pipeline.folder / "store" / "rows" / "candidates.sqlite")) as rows:
            return {key for (key,) in rows.execute("select key from rows")}

    before, asked = stored(), len(chat_server.asked)
    pipeline.run(other, force=("candidates",))
    again = chat_server.asked[asked:]
    prompts = {row["prompt"] for row in pipeline.run(other)}
    assert len(again) == len(prompts) == asked / 2
    assert stored() == before
    # With its record gone and its rows still there, the first model is asked nothing.
    for record in (pipeline.folder / "store" / "records" / "candidates").glob("*.json"):
        record.unlink()
    pipeline.run(one)
    assert len(chat_server.asked) == asked + len(again)


def test_an_engine_that_is_killed_again_and_again_loses_no_finished_row(pipeline, chat_server):
    """Killed with SIGKILL whenever it is some rows on: the stage gives up, and the next run asks for the rest."""
    steps, kills = [], []

    def kill(step, *_):
        steps.append(step)
        if len(steps) % 6 == 0:
            for pid in engines():
                os.kill(pid, signal.SIGKILL)
                kills.append(pid)

    with pytest.raises(StageFailed, match="died with exit status -9") as failure:
        pipeline.run(progress=kill)
    assert "\n" not in str(failure.value)
    assert engines() == []
    wait_for(lambda: _quiet(chat_server))  # what a killed engine had sent may be read after its end
    with closing(sqlite3.connect(pipeline.folder / "store" / "rows" / "candidates.sqlite")) as rows:
        stored = rows.execute(STORED_ANSWERS).fetchone()[0]
    asked = len(chat_server.asked)
    # What was under way when the engine was killed was answered, but reached no store.
    assert len(steps) <= stored <= asked <= stored + 5 * len(set(kills))
    rows = pipeline.run()
    prompts = {row["prompt"] for row in rows}
    assert len(chat_server.asked) - asked == len(prompts) - stored
    assert set(chat_server.answered) == prompts
    keys = [(r["dataset"], r["split"], r["dialogue_id"], r["turn"], r["emotion"]) for r in rows]
    assert len(keys) == len(set(keys)) and len(rows) % 8 == 0


def test_what_was_too_long_once_is_asked_again(pipeline, chat_server):
    """The window is the engine's or the server's: a row must not be lost for good to one that was too small."""
    chat_server.faults = lambda number, request: 400 if "Happy" in str(request["messages"]) else None
    rows = pipeline.run()
    cut = [row for row in rows if row["reason"] == "too_long"]
    assert cut and {row["emotion"] for row in cut} == {"Happy"}
    chat_server.faults = lambda number, request: None
    chat_server.asked.clear()
    # Stale, since it is part of the key; the rows are not, since what it names is not there.
    again = pipeline.run('candidates.server.identity_fields=["id", "owned_by", "no such field"]')
    assert {row["text"] for row in again if row["reason"] == "too_long"} == set()
    assert len(chat_server.asked) == len({row["prompt"] for row in cut})


def test_a_cancelled_stage_takes_its_engine_and_its_open_requests_with_it(pipeline, chat_server):
    """The server would work at what nobody waits for any more, and a remote one would be paid for it."""
    seen = []

    def held(number, _):
        """After the first dozen none is answered before its client hangs up."""
        return None if number <= 12 else lambda handler: handler.connection.recv(1)

    def cancel(step, *_):
        if not seen and step >= 3:
            seen[:] = engines()
            wait_for(lambda: chat_server.busy)
            # The stage's other item, which begins anew and is cancelled too, is answered.
            chat_server.faults = lambda *_: None
        if seen:
            raise KeyboardInterrupt

    chat_server.faults = held
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(progress=cancel)
    assert len(seen) == 1
    _wait_until_gone(seen)
    wait_for(lambda: chat_server.busy == 0, 15)


def _quiet(server) -> bool:
    """Nothing is under way there, and nothing came within a second."""
    asked = len(server.asked)
    time.sleep(1)
    return server.busy == 0 and len(server.asked) == asked


def _wait_until_gone(pids: list[int]) -> None:
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_history_and_the_comparison_without_examples(pipeline, chat_server):
    rows = pipeline.run("candidates.history=2", "candidates.examples=2", "candidates.compare=1")
    said = {
        (r["split"], r["dialogue_id"], r["turn"]): r["prompt"].rsplit(f"({r['emotion']}) ", 1)[1]
        for r in rows
    }
    follow = [r for r in rows if (r["split"], r["dialogue_id"], r["turn"] - 1) in said]
    assert follow
    for row in follow:
        history, asked = row["prompt"].split("\n\n")
        lines = history.split("\n")
        assert 1 <= len(lines) <= 2 and all(
            line.split(":")[0].rstrip("0123456789") in ("gpt", "human") for line in lines
        )
        assert lines[-1].endswith(said[row["split"], row["dialogue_id"], row["turn"] - 1])
        assert asked == candidate_prompt(said[row["split"], row["dialogue_id"], row["turn"]], row["emotion"])
    turns = [len(body["messages"]) for _, _, body in chat_server.asked]
    assert set(turns) == {6, 2}  # with two worked exchanges, and without
    with pipeline.session("candidates.history=2", "candidates.examples=2", "candidates.compare=1") as session:
        plain = [json.loads(session.store.read(ref)) for ref in pipeline.refs(session, "plain")]
        shards = pipeline.refs(session, "candidates")
    assert len(plain) == len(shards)
    assert all(facts[name]["candidates"] == 8 for facts in plain for name in ("with", "without"))
    assert turns.count(2) == 8 * len(plain)


HOW = {
    "timeout_s": 7,
    "connect_timeout_s": 3,
    "retries": 2,
    "backoff_s": 0.02,
    "longest_pause_s": 1,
    "concurrency": 2,
    "max_bytes": 5000,
    "bad_in_a_row": 9,
    "identify_every": 3,
    "key_variable": "ANOTHER_KEY",
}
WHAT = {
    "base_url": "http://localhost:1/v1",
    "model": "another-7b",
    "token_limit_field": "max_completion_tokens",
    "leave_out": ["seed"],
    "extra": {"min_p": 0.1},
    "identify_by": ["models"],
    "identity_fields": ["id"],
}


def test_how_a_server_is_asked_is_no_part_of_a_key_and_what_it_is_asked_is(pipeline, chat_server):
    """Each setting by itself, in both directions, and none is forgotten."""
    assert (
        HOW.keys() == set(TRANSPORT_FIELDS) and HOW.keys() | WHAT.keys() == ServerSettings.model_fields.keys()
    )
    pipeline.run()
    (
        chat_server.shutdown(),
        chat_server.server_close(),
    )  # what is fresh asks nobody, not even which model it is
    fresh = {f"candidates.server.{name}": value for name, value in HOW.items()}
    fresh |= {
        "candidates.engine_args.stall_timeout_s": 99,
        "candidates.engine_args.start_timeout_s": 99,
        "candidates.engine_args.dtype": "float32",
    }
    stale = {f"candidates.server.{name}": value for name, value in WHAT.items()}
    for expected, changes in (("fresh", fresh), ("stale", stale)):
        for name, value in changes.items():
            with pipeline.session(f"{name}={json.dumps(value)}") as opened:
                (plan,) = [plan for plan in opened.plan("candidates") if plan.stage.name == "candidates"]
            assert plan.state == expected, name
            told = name.split(".")[-1]
            assert expected == "fresh" or told in str(plan.stale), (name, plan.stale)


def test_settings_of_an_engine_that_is_not_used_make_nothing_stale():
    without = CandidateSettings.without_effect
    for name in ("server.base_url", "server.timeout_s", "engine_args.stall_timeout_s"):
        assert name in without("transformers") and name in without("vllm")
    assert "engine_args.dtype" in without("openai") and "engine_args.dtype" not in without("transformers")
    named = set(setting_names(CandidateSettings))
    assert all(set(without(engine)) <= named for engine in ("vllm", "transformers", "openai"))


def _answers(folder: Path) -> list[dict]:
    with closing(sqlite3.connect(folder / "store" / "rows" / "candidates.sqlite")) as rows:
        return [json.loads(value) for (value,) in rows.execute(STORED_ANSWERS.replace("count(*)", "value"))]


def test_rows_of_two_models_under_one_name_never_mix(pipeline, chat_server):
    """Other weights behind the same name between two runs: nothing of the first is taken for the second's."""
    first = pipeline.run()
    chat_server.weights = "b"
    asked = len(chat_server.asked)
    assert pipeline.run() == first and len(chat_server.asked) == asked  # fresh: the record says by whom
    again = pipeline.run('candidates.server.identity_fields=["id", "owned_by", "no such field"]')
    assert len(chat_server.asked) == 2 * asked
    assert not {row["text"] for row in again} & {row["text"] for row in first}
    assert len({row["weights"] for row in [*first, *again]}) == 2
    with pipeline.session() as opened:
        (served, *_) = [json.loads(opened.store.read(ref)) for ref in pipeline.refs(opened, "served")]
    assert served["models"] == {"id": "some-7b", "owned_by": "tests"} and len(served["probe"]) == 16


def test_a_model_that_changes_in_mid_run_is_one_line_and_none_of_its_rows_is_kept(pipeline, chat_server):
    """The change comes after 13 answers; it is noticed after the 16th, and 13 to 16 are not taken for the old one's."""

    def change(number, _):
        if number == 14:
            chat_server.weights = "b"

    chat_server.faults = change
    few = ("candidates.server.identify_every=8", "candidates.server.concurrency=1")
    with pytest.raises(StageFailed, match="another model answers to 'some-7b' .*probe changed") as failure:
        pipeline.run(*few)
    assert "\n" not in str(failure.value) and "--force candidates" in str(failure.value)
    assert sum("unconfirmed" in row for row in _answers(pipeline.folder)) == 8
    old = {chat_server.text(body, weights="") for _, _, body in chat_server.asked[:13]}
    assert old & {row["text"] for row in _answers(pipeline.folder)}
    asked = len(chat_server.asked)
    rows = pipeline.run(*few)
    # The shard that was left is asked for anew from its first row on.
    assert len(chat_server.asked) - asked >= 16
    assert not {row["text"] for row in rows} & old and len({row["weights"] for row in rows}) == 1


def test_what_was_left_unconfirmed_is_asked_again_once_another_model_was_there(pipeline, chat_server):
    """The run was cut off before it could look again: what it was last told may have been the other model's."""

    def cancel(step, *_):
        if step >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(progress=cancel)
    _wait_until_gone(engines())
    stored = _answers(pipeline.folder)
    assert len(stored) >= 5 and all(row["unconfirmed"] for row in stored)
    chat_server.weights = "b"
    pipeline.run()
    chat_server.weights, asked = "", len(chat_server.asked)
    rows = pipeline.run('candidates.server.identity_fields=["id", "owned_by", "no such field"]')
    assert len(chat_server.asked) - asked == len({row["prompt"] for row in rows})
    assert not any("unconfirmed" in row for row in _answers(pipeline.folder))


@pytest.mark.slow
def test_shards_of_two_models_make_no_pairs(pipeline, chat_server):
    pipeline.run()
    chat_server.weights = "b"
    path = next(pipeline.raw.rglob("train_sent_emo.csv"))
    text = path.read_text(encoding="utf-8")
    with open(path, encoding="utf-8", newline="") as file:
        spoken = list(csv.DictReader(file))[0]["Utterance"]
    path.write_text(text.replace(spoken, f"{spoken} Truly.", 1), encoding="utf-8")
    rows = pipeline.run()
    assert len({row["weights"] for row in rows}) == 2
    with pytest.raises(StageFailed, match="written by more than one model .*--force candidates") as failure:
        pipeline.run(until="pairs")
    assert failure.value.usage and "\n" not in str(failure.value)


def test_one_bad_answer_is_an_unusable_row_and_a_run_of_them_stops_with_one_line(pipeline, chat_server):
    kinds = {
        "Happy": {"content": "<think>The user wants me to be happy and"},
        "Sad": {"content": "bad \ud800 half"},
        "Calm": {"content": None, "tool_calls": [{"id": "1"}]},
        "Angry": {"content": 7},
    }

    def faults(_, request):
        asked = next((kind for kind in kinds if f"({kind})" in request["messages"][-1]["content"]), None)
        return asked and (200, {}, completion(kinds[asked]))

    chat_server.faults = faults
    rows = pipeline.run("candidates.keep_garbled=false")  # as everywhere but on the tiny profile
    reasons = {row["emotion"]: row["reason"] for row in rows if row["emotion"] in kinds}
    assert reasons == {"Happy": "thought", "Sad": "garbled", "Calm": "tool_call", "Angry": "malformed"}
    assert not any(row["usable"] for row in rows if row["emotion"] in kinds)
    kept = [row for row in pipeline.run("candidates.keep_garbled=true") if row["emotion"] == "Sad"]
    assert {row["text"] for row in kept} == {"bad half"} and all(row["usable"] for row in kept)
    chat_server.faults = lambda *_: (200, {}, completion({"content": "<think>Hm"}))
    with pytest.raises(StageFailed, match="8 answers in a row are no replies .8 thought") as failure:
        pipeline.run("candidates.server.bad_in_a_row=8", "candidates.seed=1")
    assert "\n" not in str(failure.value)
