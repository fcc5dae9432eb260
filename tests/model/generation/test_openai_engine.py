"""The engine that asks a server, against a real one on the loopback that misbehaves as it is told."""

import json
import threading

import pytest

from model.candidates.usable import tidy, usable
from model.generation.client import EngineError, GenerationEngine
from model.generation.openai_engine import OpenAIEngine
from model.generation.protocol import GenerationRequest, ServerError, request_seed
from model.generation.settings import EngineArgs, EngineSettings, Sampling, ServerSettings

KEY = "sk-very-secret"
NOT_GZIP = (200, {"Content-Encoding": "gzip"}, "no gzip at all")
BRACKETS = (200, {}, "[" * 200_000)
ENDLESS = (
    200,
    {},
    '{"choices": [{"message": {"content": "Hi."}, "finish_reason": "stop"}], "usage": {"prompt_tokens": Infinity}}',
)
SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=12, seed=3)


def _settings(url: str, **changes) -> EngineSettings:
    asked = {"base_url": url, "concurrency": 4, "timeout_s": 60, "retries": 2, "backoff_s": 0.01} | changes
    return EngineSettings(
        model="some-7b", engine="openai", sampling=SAMPLING, server=ServerSettings(**asked), restarts=0
    )


def _patience(fault) -> float:
    """Seconds: short where the server never answers, and still enough for the answers beside that one."""
    return 3 if fault == "hang" else 60


def _requests(count: int) -> list[GenerationRequest]:
    found = []
    for n in range(count):
        messages = ({"role": "system", "content": ""}, {"role": "user", "content": f"prompt {n}"})
        found.append(GenerationRequest(f"row{n}", messages, request_seed(messages, SAMPLING)))
    return found


def test_prompts_sampling_and_seeds_go_over_as_they_are(chat_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    met = threading.Barrier(2, timeout=60)  # the first two requests are answered once both are there
    chat_server.faults = lambda n, _: met.wait() and None if n <= 2 else None
    requests = _requests(40)
    rows = {row.key: row for row in OpenAIEngine(_settings(chat_server.url)).generate(requests)}
    assert rows.keys() == {request.key for request in requests}
    asked = {
        body["messages"][-1]["content"]: (path, headers, body) for path, headers, body in chat_server.asked
    }
    for request in requests:
        path, headers, body = asked[request.messages[-1]["content"]]
        assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
        assert body == {
            "model": "some-7b",
            "messages": list(request.messages),
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 12,
            "seed": request.seed,
        }
        row = rows[request.key]
        assert row.text == chat_server.text(body) and (row.engine, row.finish_reason) == ("openai", "stop")
        assert (row.prompt_tokens, row.new_tokens) == (7, 5)
    assert 1 < chat_server.most_busy <= 4


@pytest.mark.parametrize("fault", [429, 500, 503, "nonsense", "empty", "hang", "drop", NOT_GZIP, BRACKETS])
def test_what_passes_is_tried_again_and_no_row_is_lost_or_doubled(chat_server, fault):
    once = set()

    def faults(_, request):
        prompt = request["messages"][-1]["content"]
        if prompt in once or not prompt.endswith("3"):
            return None
        once.add(prompt)
        return fault

    chat_server.faults = faults
    settings = _settings(chat_server.url, timeout_s=_patience(fault))
    rows = [row.key for row in OpenAIEngine(settings).generate(_requests(14))]
    assert sorted(rows) == sorted(request.key for request in _requests(14))
    assert len(chat_server.asked) == 16 and set(chat_server.answered.values()) == {1}


@pytest.mark.parametrize(
    "fault, says",
    [
        (429, "status 429"),
        (500, "status 500"),
        ("nonsense", "makes no sense"),
        (NOT_GZIP, "makes no sense"),
        (BRACKETS, "makes no sense"),
        (ENDLESS, "makes no sense"),
        ("hang", "no answer within 3 s"),
    ],
)
def test_what_does_not_pass_is_one_line_after_bounded_tries(chat_server, monkeypatch, fault, says):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat_server.faults = lambda n, request: (
        fault if request["messages"][-1]["content"] == "prompt 5" else None
    )
    rows = []
    with pytest.raises(ServerError, match=f"{says}.*after 3 tries") as failure:
        settings = _settings(chat_server.url, timeout_s=_patience(fault))
        for row in OpenAIEngine(settings).generate(_requests(6)):
            rows.append(row.key)
    assert sorted(rows) == [f"row{n}" for n in range(5)]
    assert "\n" not in str(failure.value) and KEY not in str(failure.value)
    assert sum(body["messages"][-1]["content"] == "prompt 5" for _, _, body in chat_server.asked) == 3


def test_a_refusal_is_not_tried_again_and_names_no_key(chat_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat_server.faults = lambda *_: 401
    with pytest.raises(ServerError, match=r"status 401 .*Bearer \*\*\*.*check the settings") as failure:
        list(OpenAIEngine(_settings(chat_server.url, concurrency=1)).generate(_requests(5)))
    assert len(chat_server.asked) <= 2 and KEY not in str(failure.value)


def test_prompts_that_do_not_fit_and_withheld_answers_are_rows(chat_server):
    kinds = {"prompt 0": 400, "prompt 1": "content_filter", "prompt 2": "length"}
    chat_server.faults = lambda n, request: kinds.get(request["messages"][-1]["content"])
    rows = {row.key: row for row in OpenAIEngine(_settings(chat_server.url)).generate(_requests(4))}
    reasons = [rows[f"row{n}"].finish_reason for n in range(4)]
    assert reasons == ["too_long", "filtered", "length", "stop"]
    assert rows["row0"].text == rows["row1"].text == ""


def _answer(ending: str, **message) -> tuple[int, dict, str]:
    return (200, {}, json.dumps({"choices": [{"message": message, "finish_reason": ending}]}))


@pytest.mark.parametrize("said", ["I would rather not.", "I'm sorry, I can't assist with that."])
def test_a_refusal_beside_no_content_is_a_row_that_no_one_uses(chat_server, said):
    chat_server.faults = lambda *_: _answer("stop", content=None, refusal=said)
    (row,) = OpenAIEngine(_settings(chat_server.url)).generate(_requests(1))
    assert (row.text, row.finish_reason) == (said, "filtered") and len(chat_server.asked) == 1
    text = tidy(row.text, row.finish_reason)
    assert usable(text, row.finish_reason, "I lost my keys.", "Sad") == (False, "refusal")


@pytest.mark.parametrize("ending", ["eos_token", "stop_sequence"])
def test_endings_that_another_server_has_its_own_words_for(chat_server, ending):
    chat_server.faults = lambda *_: _answer(ending, content="Oh no.")
    (row,) = OpenAIEngine(_settings(chat_server.url)).generate(_requests(1))
    assert (row.text, row.finish_reason) == ("Oh no.", "stop")


@pytest.mark.parametrize(
    "status, said",
    [
        (400, "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it"),
        (400, f"{'The prompt is too long. ' * 12}This model's maximum context length is 9 tokens."),
        (
            422,
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 1512. Given: 1000 and 1024",
        ),
        (422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 1872"),
    ],
)
def test_a_prompt_that_does_not_fit_is_a_row_in_every_servers_words(chat_server, status, said):
    chat_server.faults = lambda *_: (status, {}, json.dumps({"error": {"message": said}}))
    (row,) = OpenAIEngine(_settings(chat_server.url)).generate(_requests(1))
    assert (row.text, row.finish_reason) == ("", "too_long")


def test_a_server_that_dies_midway_costs_no_finished_row(chat_server, monkeypatch):
    """Through the engine's own process, as the stage runs it: one line, and what is left is asked of the next."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    requests = _requests(60)
    chat_server.faults = lambda n, request: "drop" if n > 20 else None
    rows = []
    with GenerationEngine(_settings(chat_server.url)) as engine:
        with pytest.raises(
            EngineError, match="openai engine failed with .* no connection .*3 tries"
        ) as failure:
            for row in engine.generate(requests):
                rows.append(row)
        done = {row.key for row in rows}
        assert len(done) == len(rows) == 20 == len(chat_server.answered)
        chat_server.faults = lambda *_: None
        rows += list(engine.generate([request for request in requests if request.key not in done]))
        pid = engine.pid
    assert sorted(row.key for row in rows) == sorted(request.key for request in requests)
    assert set(chat_server.answered.values()) == {1}
    assert "\n" not in str(failure.value) and KEY not in str(failure.value)
    assert KEY not in engine.settings.model_dump_json() and pid is not None and engine.pid is None


def test_a_servers_tries_are_never_cut_short_as_a_stall(chat_server):
    chat_server.faults = lambda *_: "hang"
    asked = _settings(chat_server.url, timeout_s=0.5)  # it answers nothing, however long it takes
    asked = asked.model_copy(update={"args": EngineArgs(stall_timeout_s=0.1)})
    with GenerationEngine(asked) as engine:
        with pytest.raises(EngineError, match="no answer within 0.5 s, after 3 tries"):
            list(engine.generate(_requests(1)))
    slow = ServerSettings(timeout_s=600)
    assert asked.model_copy(update={"server": slow}).stall_limit_s > 6 * 600


def test_an_absent_server_and_a_nameless_model_are_said(chat_server):
    url = chat_server.url
    chat_server.shutdown(), chat_server.server_close()
    with pytest.raises(ServerError, match=f"{url}: no connection .*after 3 tries; see to the server"):
        list(OpenAIEngine(_settings(url)).generate(_requests(1)))
    with pytest.raises(ValueError, match="candidates.server.model is empty"):
        GenerationEngine(_settings(url).model_copy(update={"model": ""}))
