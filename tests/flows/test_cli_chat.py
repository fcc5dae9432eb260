"""Talking to a finished run as a shell does it: `chat` by its standard input, `serve` by a request, and their mistakes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI

from flows.cli import chat
from model.accelerator import Accelerator, Gpu
from storage.errors import InputError
from tasks.chat.weights import trained
from tasks.engine import preflight, runners
from tasks.engine.run import RunRequest
from tasks.local_server import listen
from tasks.settings import load_settings
from tests.support.command_line import COMMAND, empamba, environment

SCRIPT = """Hello there
I lost \x1b[31mmy job \U0001f642
/rung 3
/compare 2
/nope
And now?
/recall
/rung
/rung 4
/save TALK
/save TALK
/clip nowhere.mp4
"""


@pytest.mark.slow
def test_a_talk_with_commands(finished, tmp_path):
    talk = tmp_path / "talk.json"
    done = subprocess.run(
        [*COMMAND, "chat", "--store", "a store", "--max-new-tokens", "4"],
        input=SCRIPT.replace("TALK", str(talk)).encode(), capture_output=True, cwd=finished, env=environment(finished), timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    shown = done.stdout.decode()
    assert re.match(r"rung 5-epo \(\+ EPO\) of run [\d-]+[0-9a-f]+; /help lists the commands", shown)
    assert shown.count("5-epo › ") == 2 and shown.count("3-mc › ") == 1 and shown.count("2-ft › ") == 1
    assert "\x1b" not in shown and "1 control characters were left out" in shown
    assert "/nope: no such command; /help lists them" in shown
    assert "said      I lost [31mmy job 🙂" in shown
    assert (
        "  4-av, 4f-text: not there, the run had no clips" in shown
        and "rung 4-av (the run had no clips); there are" in shown
    )
    assert "  6-random, 7-most-similar, 8-shuffled, 9-nll: not there, not asked for" in shown
    assert "talk.json: exists; name another file" in shown
    assert "nowhere.mp4: cannot be read (No such file or directory)" in shown
    saved = json.loads(talk.read_text())
    assert [turn["text"] for turn in saved["turns"]] == ["Hello there", "I lost [31mmy job 🙂", "And now?"]
    assert [a["rung"] for a in saved["turns"][2]["answers"]] == ["3-mc", "2-ft"] and saved["run"] in shown


@pytest.mark.slow
def test_serve_answers_on_this_machine_and_ends_on_a_signal(finished):
    process = subprocess.Popen(
        [*COMMAND, "serve", "--store", "a store", "--rung", "3", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=finished, env=environment(finished), text=True,
    )  # fmt: skip
    try:
        url = re.match(r"(http://127\.0\.0\.1:\d+/v1) has 3-mc ", process.stdout.readline())[1]
        assert [entry["id"] for entry in httpx.get(f"{url}/models").json()["data"]] == ["3-mc"]
        body = {"messages": [{"role": "user", "content": "Well?"}], "max_tokens": 2}
        answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60).json()
        assert answer["model"] == "3-mc" and answer["usage"]["completion_tokens"] in (1, 2)
        # More than is written in the seconds that are given to open connections.
        many = {"prompt": ["Well?"] * 16, "max_tokens": 1500, "stream": True, "temperature": 1}
        with httpx.stream("POST", f"{url}/completions", json=many, timeout=60) as streamed:
            parts = (line.removeprefix("data: ") for line in streamed.iter_lines() if line)
            first = json.loads(next(parts))
            process.send_signal(signal.SIGINT)
            *_, last, done = parts
        assert first["choices"][0]["finish_reason"] is None and done == "[DONE]"
        assert json.loads(last)["choices"][0]["finish_reason"] == "stop"
    finally:
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in told


def test_mistakes_are_one_line(finished):
    cases = [
        (("chat", "--store", "a store", "--rung", "x"), "no rung 'x': give one of 1-llm, 2-ft, 3-mc, 5-epo"),
        (("serve", "--store", "nothing"), "no run"),
    ]
    for arguments, why in cases:
        done = empamba(finished, *arguments)
        (line,) = (x for x in done.stderr.decode().splitlines() if x.startswith("error: "))
        assert done.returncode == 2 and why in line, line


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: cannot listen there"):
            listen(FastAPI(), "127.0.0.1", port, lambda url: None)
    with pytest.raises(InputError, match="nowhere.invalid:1: cannot listen there"):
        listen(FastAPI(), "nowhere.invalid", 1, lambda url: None)


def test_the_parts_are_those_of_the_run_or_as_they_were_last_made(finished, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(finished / "a store", store)
    request = RunRequest(
        profile="tiny", raw=str(finished / "raw files"), changes=("epo.gamma=0.4",), store=str(store)
    )
    fresh = trained(request)
    assert list(fresh.rungs) == ["1-llm", "2-ft", "3-mc", "5-epo"] and fresh.notes == ()
    assert fresh.named(None).rung.name == fresh.named("5").rung.name == "5-epo"
    with request.session() as session:
        plans = {plan.stage.name: plan for plan in session.plan()}
    for name, parts in fresh.rungs.items():
        arguments = plans[f"replies.{name}"].item("all").arguments  # what the run's own replies are made with
        for part in ("adapter", "compressor", "extractor"):
            folder, ref = getattr(parts, part), arguments[part]
            assert (folder and folder.name) == (ref and ref.digest), (name, part)

    other = trained(request.model_copy(update={"changes": ("epo.gamma=0.4", "epo.beta=1.5")}))
    assert other.rungs.keys() == fresh.rungs.keys()
    assert other.notes == ("epo is as it was last made (changed setting: epo.beta 2.0 → 1.5)",)
    without = trained(request.model_copy(update={"raw": str(tmp_path / "gone")}))
    assert without.rungs == fresh.rungs and "the parts are those that the store last made" in without.notes[0]
    with pytest.raises(InputError, match="no rung was trained yet; `empamba run"):
        trained(request.model_copy(update={"store": str(tmp_path / "empty")}))


def test_a_talk_holds_a_gpu_and_takes_none_that_a_run_holds(monkeypatch, tmp_path):
    """Of pretended GPUs; the locks are the real ones."""
    monkeypatch.setenv("EMPAMBA_CACHE", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    cards = tuple(Gpu("A100", 85.0, 30.0, uuid) for uuid in ("5f0c", "60aa"))
    for module in (preflight, runners):
        monkeypatch.setattr(module, "accelerator", lambda settings: Accelerator(cards))
    settings = load_settings("paper")
    run = runners.gpus_of(settings.run.model_copy(update={"least_gpu_gb": None}))
    training = run.try_hold(1)
    with chat._gpus(settings.run, 1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3" and run.is_held("3")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
        with pytest.raises(InputError, match="^1 of the GPUs 2, 3 would have to be free, and other runs or"):
            with chat._engine(SimpleNamespace(settings=settings), "1-llm"):
                pytest.fail("loaded on a card that is held")
    assert not run.is_held("3")
    with pytest.raises(InputError, match="^2 of the GPUs 2, 3 would"):
        with chat._engine(SimpleNamespace(settings=two_for_vllm()), "1-llm", vllm=["1-llm"]):
            pytest.fail("loaded on a card that is held")
    training.release()
    absent = settings.run.model_copy(update={"gpus": ("7",)})
    with pytest.raises(InputError, match=r"no visible GPU is called 7; there are 2 \(A100\), 3 \(A100\)"):
        runners.held_to_talk(absent, 1)


def two_for_vllm():
    return load_settings("paper", ["replies.vllm.tensor_parallel_size=2"])


def test_without_a_gpu_a_talk_holds_none(monkeypatch):
    for module in (preflight, runners):
        monkeypatch.setattr(module, "accelerator", lambda settings: Accelerator())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with chat._gpus(load_settings("cpu").run, 1):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
