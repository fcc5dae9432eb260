"""Candidates through real worker and engine processes: rows survive kills, and only what changed is asked again."""

import csv
import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from model.candidates.prompts import candidate_prompt
from tasks.engine.worker import StageFailed
from tests.support.waiting import wait_for


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
    assert {row["weights"] for row in rows} == {"served:some-7b"}
    assert {json.loads(row["settings"])["temperature"] for row in rows} == {0.8}
    assert engines() == []
    path = next(pipeline.raw.rglob("train_sent_emo.csv"))
    with open(path, encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    spoken = table[0].index("Utterance")
    sentence = next(r[spoken] for r in table[1:] if candidate_prompt(r[spoken], "Sad") in prompts)
    for row in table:
        row[spoken] = f"{sentence} Truly." if row[spoken] == sentence else row[spoken]
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(table)
    chat_server.asked.clear()
    again = pipeline.run()
    assert len(chat_server.asked) == 8 and len(again) == len(rows)
    assert all("Truly." in body["messages"][-1]["content"] for _, _, body in chat_server.asked)


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
    with closing(sqlite3.connect(pipeline.folder / "store" / "rows" / "candidates.sqlite")) as rows:
        stored = rows.execute("select count(*) from rows").fetchone()[0]
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
    again = pipeline.run("candidates.engine_args.max_model_len=2048")
    assert {row["text"] for row in again if row["reason"] == "too_long"} == set()
    assert len(chat_server.asked) == len({row["prompt"] for row in cut})


def test_a_cancelled_stage_takes_its_engine_with_it(pipeline, chat_server):
    seen = []

    def cancel(step, *_):
        seen[:] = seen or engines()
        if step >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(progress=cancel)
    assert len(seen) == 1
    wait_for(lambda: not Path(f"/proc/{seen[0]}").exists())


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
