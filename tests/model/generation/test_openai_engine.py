"""The engine that asks a server, against a real one on the loopback that misbehaves as it is told."""

import hashlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from model.generation.client import EngineError, GenerationEngine
from model.generation.openai_engine import OpenAIEngine
from model.generation.protocol import GenerationRequest, ServerError, request_seed
from model.generation.settings import EngineSettings, Sampling, ServerSettings

KEY = "sk-very-secret"
SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=12, seed=3)


def _text(request: dict) -> str:
    return hashlib.sha256(json.dumps([request["messages"], request["seed"]]).encode()).hexdigest()[:12]


class Server(ThreadingHTTPServer):
    """Chat completions whose text is a digest of messages and seed. `faults(n, request)` names what to do instead
    with the n-th request, or None."""

    daemon_threads = True

    def __init__(self):
        self.asked, self.answered, self.faults = [], Counter(), lambda n, request: None
        self.busy = self.most_busy = 0
        self.guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.guard:
            self.server.asked.append((self.path, dict(self.headers), request))
            number = len(self.server.asked)
            self.server.busy += 1
            self.server.most_busy = max(self.server.busy, self.server.most_busy)
        try:
            self._answer(request, self.server.faults(number, request))
        finally:
            with self.server.guard:
                self.server.busy -= 1

    def _answer(self, request, fault):
        ending = "stop"
        if fault == "hang":
            time.sleep(1)
            return
        if fault == "drop":
            self.connection.close()
            return
        if isinstance(fault, int):
            said = {"error": {"message": f"status {fault} for {self.headers.get('Authorization')}"}}
            if fault == 400:
                said = {"error": {"message": "This model's maximum context length is 9 tokens."}}
            return self._send(fault, json.dumps(said))
        if fault == "nonsense":
            return self._send(200, "<html>gateway</html>")
        if fault == "empty":
            return self._send(200, '{"choices": []}')
        if fault in ("length", "content_filter"):
            ending = fault
        with self.server.guard:
            self.server.answered[request["messages"][-1]["content"]] += 1
        choice = {"message": {"role": "assistant", "content": _text(request)}, "finish_reason": ending}
        if ending == "content_filter":
            choice["message"]["content"] = None
        usage = {"prompt_tokens": 7, "completion_tokens": 5}
        self._send(200, json.dumps({"choices": [choice], "usage": usage}))

    def _send(self, status, text):
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def server():
    found = Server()
    yield found
    found.shutdown()
    found.server_close()


def _settings(url: str, **changes) -> EngineSettings:
    asked = {"base_url": url, "concurrency": 4, "timeout_s": 0.5, "retries": 2, "backoff_s": 0.01} | changes
    return EngineSettings(
        model="some-7b", engine="openai", sampling=SAMPLING, server=ServerSettings(**asked), restarts=0
    )


def _requests(count: int) -> list[GenerationRequest]:
    found = []
    for n in range(count):
        messages = ({"role": "system", "content": ""}, {"role": "user", "content": f"prompt {n}"})
        found.append(GenerationRequest(f"row{n}", messages, request_seed(messages, SAMPLING)))
    return found


def test_prompts_sampling_and_seeds_go_over_as_they_are(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    requests = _requests(40)
    rows = {row.key: row for row in OpenAIEngine(_settings(server.url)).generate(requests)}
    assert rows.keys() == {request.key for request in requests}
    asked = {body["messages"][-1]["content"]: (path, headers, body) for path, headers, body in server.asked}
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
        assert row.text == _text(body) and (row.engine, row.finish_reason) == ("openai", "stop")
        assert (row.prompt_tokens, row.new_tokens) == (7, 5)
    assert 1 < server.most_busy <= 4


@pytest.mark.parametrize("fault", [429, 500, 503, "nonsense", "empty", "hang", "drop"])
def test_what_passes_is_tried_again_and_no_row_is_lost_or_doubled(server, fault):
    once = set()

    def faults(_, request):
        prompt = request["messages"][-1]["content"]
        if prompt in once or not prompt.endswith("3"):
            return None
        once.add(prompt)
        return fault

    server.faults = faults
    rows = [row.key for row in OpenAIEngine(_settings(server.url)).generate(_requests(14))]
    assert sorted(rows) == sorted(request.key for request in _requests(14))
    assert len(server.asked) == 16 and set(server.answered.values()) == {1}


@pytest.mark.parametrize(
    "fault, says",
    [
        (429, "status 429"),
        (500, "status 500"),
        ("nonsense", "makes no sense"),
        ("hang", "no answer within 0.5 s"),
    ],
)
def test_what_does_not_pass_is_one_line_after_bounded_tries(server, monkeypatch, fault, says):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.faults = lambda n, request: fault if request["messages"][-1]["content"] == "prompt 5" else None
    rows = []
    with pytest.raises(ServerError, match=f"{says}.*after 3 tries") as failure:
        for row in OpenAIEngine(_settings(server.url)).generate(_requests(6)):
            rows.append(row.key)
    assert sorted(rows) == [f"row{n}" for n in range(5)]
    assert "\n" not in str(failure.value) and KEY not in str(failure.value)
    assert sum(body["messages"][-1]["content"] == "prompt 5" for _, _, body in server.asked) == 3


def test_a_refusal_is_not_tried_again_and_names_no_key(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.faults = lambda *_: 401
    with pytest.raises(ServerError, match=r"status 401 .*Bearer \*\*\*.*check the settings") as failure:
        list(OpenAIEngine(_settings(server.url, concurrency=1)).generate(_requests(5)))
    assert len(server.asked) <= 2 and KEY not in str(failure.value)


def test_prompts_that_do_not_fit_and_withheld_answers_are_rows(server):
    kinds = {"prompt 0": 400, "prompt 1": "content_filter", "prompt 2": "length"}
    server.faults = lambda n, request: kinds.get(request["messages"][-1]["content"])
    rows = {row.key: row for row in OpenAIEngine(_settings(server.url)).generate(_requests(4))}
    reasons = [rows[f"row{n}"].finish_reason for n in range(4)]
    assert reasons == ["too_long", "filtered", "length", "stop"]
    assert rows["row0"].text == rows["row1"].text == ""


def test_a_server_that_dies_midway_costs_no_finished_row(server, monkeypatch):
    """Through the engine's own process, as the stage runs it: one line, and what is left is asked of the next."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    requests = _requests(60)
    server.faults = lambda n, request: "drop" if n > 20 else None
    rows = []
    with GenerationEngine(_settings(server.url)) as engine:
        with pytest.raises(
            EngineError, match="openai engine failed with .* no connection .*3 tries"
        ) as failure:
            for row in engine.generate(requests):
                rows.append(row)
        done = {row.key for row in rows}
        assert len(done) == len(rows) == 20 == len(server.answered)
        server.faults = lambda *_: None
        rows += list(engine.generate([request for request in requests if request.key not in done]))
        pid = engine.pid
    assert sorted(row.key for row in rows) == sorted(request.key for request in requests)
    assert set(server.answered.values()) == {1}
    assert "\n" not in str(failure.value) and KEY not in str(failure.value)
    assert KEY not in engine.settings.model_dump_json() and pid is not None and engine.pid is None


def test_an_absent_server_and_a_nameless_model_are_said(server):
    url = server.url
    server.shutdown(), server.server_close()
    with pytest.raises(ServerError, match=f"{url}: no connection .*after 3 tries; see to the server"):
        list(OpenAIEngine(_settings(url)).generate(_requests(1)))
    with pytest.raises(ValueError, match="candidates.server.model is empty"):
        GenerationEngine(_settings(url).model_copy(update={"model": ""}))
