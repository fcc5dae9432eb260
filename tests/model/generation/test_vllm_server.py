"""The engine that asks a server, against vLLM's own server with SmolLM2 behind it."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from functools import cache

import httpx
import pytest

from model.candidates.prompts import candidate_messages
from model.candidates.settings import GENERATION_EMOTIONS
from model.dialogue.settings import DialogueSettings
from model.generation.client import EngineError, GenerationEngine, child_environment
from model.generation.openai_engine import OpenAIEngine
from model.generation.protocol import GenerationRequest, ServerError, request_seed
from model.generation.settings import EngineArgs, EngineSettings, Sampling, ServerSettings
from model.generation.transformers_engine import TransformersEngine
from model.prompts import dialogue_prompt
from model.zoo.errors import ZooError
from model.zoo.resolve import resolve
from storage.shards import read_table
from tasks.engine.declaration import served_weights
from tasks.settings import ReplySettings
from tasks.stages.systems.ask import ask_system
from tasks.stages.systems.settings import EndpointSystem, Prices
from tests.support.two_dialogues import FIRST, SECOND, two_dialogues
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
SENTENCES = [
    "I lost my keys again.",
    "She said yes!",
    "Where were you last night?",
]
LONGEST = 512


@pytest.fixture(scope="module")
def folder():
    try:
        return resolve("smollm2-135m-instruct")
    except ZooError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def vllm_server(folder, tmp_path_factory):
    """(address up to /v1, the server's process); float32, so that texts can be compared."""
    log = tmp_path_factory.mktemp("vllm_server") / "log"
    port, process = _started(folder, log)
    try:
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _started(folder, log, tries: int = 3) -> tuple[int, subprocess.Popen]:
    """A server that answers, on a port that was free a moment ago: another program may take it meanwhile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (
        f"-m vllm.entrypoints.openai.api_server --model {folder} --served-model-name smol --host 127.0.0.1 "
        f"--port {port} --generation-config vllm --dtype float32 --max-model-len {LONGEST} --enforce-eager "
        f"--kv-cache-memory-bytes {1 << 28} --no-enable-chunked-prefill --max-num-batched-tokens 4096"
    )
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, *command.split()],
            env=child_environment(1),
            stdout=out,
            stderr=subprocess.STDOUT,
            # Its engine is a child of its own, which outlives it for a while when it is killed.
            start_new_session=True,
        )

    def settled() -> bool:
        try:
            health = httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
        except httpx.TransportError:
            return process.poll() is not None
        return health.status_code == 200

    try:
        wait_for(settled, 300)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.poll() is None:
        return port, process
    told = log.read_text(errors="replace")
    if "in use" not in told or tries == 1:
        pytest.fail(told[-2000:])
    return _started(folder, log, tries - 1)


def _settings(url: str, model: str = "smol", **sampling) -> EngineSettings:
    return EngineSettings(
        model=model,
        engine="openai",
        args=EngineArgs(dtype="float32", max_model_len=LONGEST),
        sampling=Sampling(**{"max_new_tokens": 12, **sampling}),
        server=ServerSettings(base_url=url, timeout_s=60, retries=2, backoff_s=0.05),
    )


def _requests(sampling: Sampling) -> list[GenerationRequest]:
    found = []
    for sentence in SENTENCES:
        for emotion in GENERATION_EMOTIONS:
            messages = tuple(candidate_messages(sentence, emotion, examples=2))
            key = f"{sentence} {emotion}"
            found.append(GenerationRequest(key, messages, request_seed(messages, sampling)))
    return found


def test_the_likeliest_answers_are_those_of_the_model_asked_directly(vllm_server, folder):
    """Same prompt tokens, same answers and endings as through transformers: template, system message and stop
    tokens are the same on both roads."""
    asked = _settings(vllm_server[0], temperature=0)
    requests = _requests(asked.sampling)
    with GenerationEngine(asked) as engine:
        served = {row.key: row for row in engine.generate(requests)}
    direct = TransformersEngine(asked.model_copy(update={"model": str(folder), "engine": "transformers"}))
    expected = {row.key: row for row in direct.generate(requests)}
    assert served.keys() == expected.keys() and len(served) == 24
    same = [served[key].text == row.text for key, row in expected.items()]
    assert sum(same) >= 23  # a near tie may round to the other side
    for key, row in expected.items():
        assert served[key].prompt_tokens == row.prompt_tokens and served[key].engine == "openai"
        if served[key].text == row.text:
            assert (served[key].finish_reason, served[key].new_tokens) == (row.finish_reason, row.new_tokens)
    assert {row.finish_reason for row in served.values()} == {"stop", "length"}


def test_the_server_is_known_again_alone_and_at_work(vllm_server, folder):
    """Its list of models has another date and another permission at each look; the model is the same."""
    engine = OpenAIEngine(_settings(vllm_server[0]))
    first = engine.identify()
    assert first["models"]["root"] == str(folder) and len(first["probe"]) == 16
    at_work = engine.generate(_requests(Sampling())[:8])
    next(at_work)
    assert engine.identify() == first
    assert len(list(at_work)) == 7 and engine.identify() == first


def test_a_row_is_drawn_by_its_own_seed(vllm_server):
    requests = _requests(Sampling())[:12]
    engine = OpenAIEngine(_settings(vllm_server[0]))
    first = {row.key: row.text for row in engine.generate(requests)}
    again = {row.key: row.text for row in engine.generate(requests[::-1])}
    assert sum(first[key] == again[key] for key in first) >= 11
    moved = [GenerationRequest(r.key, r.messages, r.seed ^ 1) for r in requests]
    other = {row.key: row.text for row in engine.generate(moved)}
    assert sum(first[key] != other[key] for key in first) >= 10


def test_a_prompt_that_does_not_fit_is_a_row_and_a_wrong_name_is_said(vllm_server):
    messages = ({"role": "user", "content": "word " * 2 * LONGEST},)
    short = _requests(Sampling())[0]
    engine = OpenAIEngine(_settings(vllm_server[0]))
    rows = {row.key: row for row in engine.generate([GenerationRequest("long", messages, 1), short])}
    assert rows["long"].finish_reason == "too_long" and rows["long"].text == ""
    assert rows[short.key].finish_reason in ("stop", "length")
    with pytest.raises(ServerError, match="status 404 .*check candidates.server.model") as failure:
        list(OpenAIEngine(_settings(vllm_server[0], model="another")).generate([short]))
    assert "\n" not in str(failure.value)


def test_a_system_of_table_1_behind_it_answers_as_the_model_asked_directly(
    vllm_server, folder, tmp_path, monkeypatch
):
    """Stage `systems` through its engine's process: replies, token counts and what identifies the model are the server's."""
    data = two_dialogues(tmp_path, meld=("test",), iemocap=("test",))
    server = ServerSettings(base_url=vllm_server[0], model="smol", retries=2, backoff_s=0.05, concurrency=2)
    system = EndpointSystem(name="smol", server=server, prices=Prices(prompt=1, reply=2))
    with ExitStack() as started:
        engine = cache(lambda settings: started.enter_context(GenerationEngine(settings)))
        monkeypatch.setattr("tasks.stages.asked.process_engine", engine)
        made = ask_system(
            system, served_weights("smol"), data.utterances, data.exchanges, ReplySettings(max_new_tokens=12),
            DialogueSettings(), data.work,
        )  # fmt: skip
    replies, rejects, facts = (data.store.read(ref) for ref in made)
    rows, counted = read_table(replies, "replies"), json.loads(facts)
    assert len(rows) == 6 and not read_table(rejects, "rejects") and counted["retries"] == 0
    assert counted["identity"]["models"]["root"] == str(folder) and counted["uncounted"] == 0
    asked = system.engine("smol", 12).model_copy(update={"model": str(folder), "engine": "transformers"})
    direct = TransformersEngine(asked.model_copy(update={"args": EngineArgs(dtype="float32")}))
    requests = []
    for row in rows:
        lines = {"meld": FIRST, "iemocap": SECOND}[row["dataset"]]
        said = [(who, text) for turn, (who, text, _) in lines.items() if turn < row["turn"]]
        names = list(dict.fromkeys(who for who, *_ in lines.values()))
        # Who is to reply is "gpt", as in figure 11: written by hand, for each of the two dialogues.
        roles = {"meld": ("gpt", "human", "human2"), "iemocap": ("gpt", "human")}[row["dataset"]]
        history = "\n".join(f"{roles[names.index(who)]}: {text}" for who, text in said)
        prompt = dialogue_prompt(row["sentence"], history, False, False)
        requests.append(
            GenerationRequest(str(row["turn"]) + row["dataset"], ({"role": "user", "content": prompt},), 0)
        )
    expected = {row.key: row for row in direct.generate(requests)}
    same = 0
    for row in rows:
        other = expected[str(row["turn"]) + row["dataset"]]
        assert row["prompt_tokens"] == other.prompt_tokens
        same += row["reply"] == other.text.strip()
    assert same >= 5  # a near tie may round to the other side


def test_a_server_that_is_killed_midway_costs_no_finished_row(vllm_server):
    url, process = vllm_server
    asked = _settings(url, max_new_tokens=40)
    rows = []
    with GenerationEngine(asked) as engine:
        with pytest.raises(EngineError, match="after 3 tries; see to the server") as failure:
            for row in engine.generate(_requests(asked.sampling)):
                rows.append(row)
                if len(rows) == 5:
                    os.kill(process.pid, signal.SIGKILL)
    assert 5 <= len(rows) < 24 and len({row.key for row in rows}) == len(rows)
    assert "\n" not in str(failure.value)
