"""The engine that asks a server, against a real one on the loopback that misbehaves as it is told."""

import gzip
import json
import socket
import threading
import time
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.candidates.usable import tidy, usable
from model.generation.client import EngineError, GenerationEngine
from model.generation.openai_engine import PROBES, OpenAIEngine
from model.generation.protocol import GenerationRequest, ServerError, request_seed
from model.generation.server_errors import retry_after_s
from model.generation.settings import EngineArgs, EngineSettings, Sampling, ServerSettings
from tests.support.chat_server import completion

KEY = "sk-very-secret"
PACKED = (200, {"Content-Encoding": "gzip"}, gzip.compress(completion({"content": "Hi."}).encode()))
BRACKETS = (200, {}, "[" * 200_000)
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


@pytest.mark.parametrize("fault", [429, 500, 503, "nonsense", "empty", "hang", "drop", PACKED, BRACKETS])
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


@pytest.mark.parametrize("fault, says", [(429, "status 429"), (503, "status 503"), ("drop", "no connection")])
def test_a_server_that_is_down_is_one_line_after_bounded_tries(chat_server, monkeypatch, fault, says):
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


def _drip(handler):
    """A body a byte at a time, each well within any timeout of a single read."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    _drop_by_drop(handler, b" ")


def _drip_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    _drop_by_drop(handler, b"X-A: b\r\n")


def _drop_by_drop(handler, drop: bytes):
    for _ in range(400):
        try:
            handler.wfile.write(drop)
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.05)


def _endless(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(20_000):
            handler.wfile.write(b"x" * (1 << 20))
    except OSError:
        return


def _bomb() -> tuple[int, dict, bytes]:
    """200 MB of zeros in 200 kB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(200)]
    return 200, {"Content-Encoding": "gzip"}, b"".join(parts) + packer.flush()


@pytest.mark.parametrize(
    "fault, reason, says",
    [
        (500, "no_answer", "status 500"),
        ("hang", "no_answer", "no answer within 2 s"),
        (_drip, "no_answer", "no answer within 2 s"),
        (_drip_headers, "no_answer", "no answer within 2 s"),
        (_endless, "malformed", "more than 1048576 bytes .candidates.server.max_bytes."),
        (_bomb, "malformed", "a compressed answer .gzip., which was not asked for"),
        (PACKED, "malformed", "a compressed answer"),
        ("nonsense", "malformed", "makes no sense"),
        (BRACKETS, "malformed", "makes no sense"),
        ((400, {}, '{"error": "your prompt is odd"}'), "no_answer", "status 400 .*your prompt is odd"),
    ],
)
def test_a_bad_answer_is_a_row_and_a_run_of_them_is_one_line(chat_server, monkeypatch, fault, reason, says):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    fault = fault() if fault is _bomb else fault
    chat_server.faults = lambda n, request: (
        fault if request["messages"][-1]["content"] in ("prompt 2", "prompt 5") else None
    )
    before = psutil.Process().memory_info().rss
    began = time.monotonic()
    few = {"bad_in_a_row": 3, "retries": 1}
    if says.startswith("no answer"):  # else an ordinary answer has all the time it needs
        few["timeout_s"] = 2
    rows = {r.key: r for r in OpenAIEngine(_settings(chat_server.url, **few)).generate(_requests(6))}
    assert {key: r.finish_reason for key, r in rows.items() if r.finish_reason != "stop"} == {
        "row2": reason,
        "row5": reason,
    }
    chat_server.faults = lambda *_: fault
    with pytest.raises(
        ServerError, match=rf"3 answers in a row are no replies \(3 {reason}; the last: .*{says}"
    ) as failure:
        list(OpenAIEngine(_settings(chat_server.url, concurrency=1, **few)).generate(_requests(6)))
    assert "\n" not in str(failure.value) and KEY not in str(failure.value)
    assert time.monotonic() - began < 100 and psutil.Process().memory_info().rss - before < 200 << 20


def test_a_reply_between_bad_answers_is_no_run_of_them(chat_server):
    chat_server.faults = lambda n, _: "nonsense" if n % 3 else None
    asked = _settings(chat_server.url, bad_in_a_row=3, retries=0, concurrency=1)
    rows = list(OpenAIEngine(asked).generate(_requests(12)))
    assert [row.finish_reason for row in rows].count("malformed") == 8
    chat_server.faults = lambda *_: "nonsense"
    unlimited = _settings(chat_server.url, bad_in_a_row=None, retries=0)
    assert len(list(OpenAIEngine(unlimited).generate(_requests(40)))) == 40


def test_a_run_of_thoughts_names_what_to_set(chat_server):
    chat_server.faults = lambda *_: _answer("length", content="<think>Well, the user")
    with pytest.raises(ServerError, match=r"thought.*candidates\.max_new_tokens.*candidates\.server\.extra"):
        list(OpenAIEngine(_settings(chat_server.url, bad_in_a_row=4)).generate(_requests(9)))


def test_counts_that_are_none_cost_no_reply(chat_server):
    body = json.loads(completion({"content": "Hi."})) | {
        "usage": {"prompt_tokens": 1e999, "completion_tokens": "9"}
    }
    chat_server.faults = lambda *_: (200, {}, json.dumps(body))
    (row,) = OpenAIEngine(_settings(chat_server.url)).generate(_requests(1))
    assert (row.text, row.prompt_tokens, row.new_tokens) == ("Hi.", 0, 0)


def test_a_refusal_is_not_tried_again_and_names_no_key(chat_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat_server.faults = lambda *_: 401
    with pytest.raises(
        ServerError, match=r"status 401 .*Bearer \*\*\*.*check the key in OPENAI_API_KEY"
    ) as failure:
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
        (400, "The input (2000 tokens) is longer than the model's context length (512 tokens)."),
        (400, "The decoder prompt (length 600) is longer than the maximum model length of 512."),
        (400, "Requested tokens (2285) exceed context window of 2048"),
        (500, "Context size has been exceeded."),
        (500, "Input prompt is too big compared to KV size. Please try increasing KV size."),
        (500, "the request exceeds the available context size. try increasing the context size"),
    ],
)
def test_a_prompt_that_does_not_fit_is_a_row_in_every_servers_words(chat_server, status, said):
    chat_server.faults = lambda *_: (status, {}, json.dumps({"error": {"message": said}}))
    (row,) = OpenAIEngine(_settings(chat_server.url)).generate(_requests(1))
    assert (row.text, row.finish_reason) == ("", "too_long")


@pytest.mark.parametrize("field", ["code", "type"])
def test_a_prompt_that_does_not_fit_may_be_told_by_a_code(chat_server, field):
    error = {"message": "Bad.", field: "context_length_exceeded"}
    chat_server.faults = lambda *_: (400, {}, json.dumps({"error": error}))
    (row,) = OpenAIEngine(_settings(chat_server.url)).generate(_requests(1))
    assert row.finish_reason == "too_long"


@pytest.mark.parametrize(
    "said",
    [
        "Invalid value for parameter x in request about context length",
        "unknown field context_length",
        "the context window may not be changed here",
        "No: '{prompt}'",
    ],
)
def test_a_refusal_that_merely_mentions_a_length_is_none_of_it(chat_server, said):
    prompt = "This model's maximum context length is 9 tokens."
    chat_server.faults = lambda *_: (400, {}, json.dumps({"error": {"message": said.format(prompt=prompt)}}))
    request = GenerationRequest("row", ({"role": "user", "content": prompt},), 1)
    (row,) = OpenAIEngine(_settings(chat_server.url)).generate([request])
    assert row.finish_reason == "no_answer"


def _picky(accepts):
    """Refuses, as OpenAI words it, the first field that `accepts` names and the request has."""

    def faults(_, request):
        for field, (refused, message) in accepts.items():
            if field in request and refused(request[field]):
                error = {"message": message, "param": field, "code": "unsupported_parameter"}
                return (400, {}, json.dumps({"error": error}))
        return None

    return faults


def test_servers_that_take_other_fields_and_the_error_that_names_the_setting(chat_server):
    """As a newcomer would go on: each error names the setting that takes it away, until the server answers."""
    faults = _picky(
        {
            "max_tokens": (lambda _: True, "Unsupported parameter: use 'max_completion_tokens' instead."),
            "temperature": (lambda value: value != 1, "'temperature' does not support 0.7 with this model."),
            "top_p": (lambda _: True, "Unsupported parameter: 'top_p'"),
            "seed": (lambda _: True, "Extra inputs are not permitted"),
            "min_p": (lambda _: True, "no such field"),
        }
    )
    chat_server.faults = faults
    changes = {"extra": '{"min_p": 0.1, "chat_template_kwargs": {"enable_thinking": false}}'}
    steps = [
        (r"candidates\.server\.token_limit_field=max_completion_tokens", {"token_limit_field": "max_completion_tokens"}),
        (r"candidates\.server\.leave_out='\[\"temperature\"\]'", {"leave_out": ("temperature",)}),
        (r"candidates\.server\.leave_out='\[\"temperature\", \"top_p\"\]'", {"leave_out": ("temperature", "top_p")}),
        (r"leave_out='\[\"temperature\", \"top_p\", \"seed\"\]'", {"leave_out": ("temperature", "top_p", "seed")}),
        (r"take min_p out of candidates\.server\.extra", {"extra": '{"chat_template_kwargs": {"enable_thinking": false}}'}),
    ]  # fmt: skip
    for names, change in steps:
        chat_server.asked.clear()
        with pytest.raises(ServerError, match=f"status 400 .*{names}") as failure:
            list(OpenAIEngine(_settings(chat_server.url, concurrency=1, **changes)).generate(_requests(3)))
        assert len(chat_server.asked) <= 2 and "\n" not in str(failure.value)
        changes |= change
    asked = _settings(chat_server.url, **changes)
    (row,) = OpenAIEngine(asked).generate(_requests(1))
    assert row.finish_reason == "stop"
    assert chat_server.asked[-1][2] == {
        "model": "some-7b",
        "messages": list(_requests(1)[0].messages),
        "max_completion_tokens": 12,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    # Without a temperature of ours no answer is the likeliest one.
    assert OpenAIEngine(asked).identify() == {"models": {"id": "some-7b", "owned_by": "tests"}}
    assert not chat_server.probed[4:]


def test_a_field_that_a_message_names_without_a_param(chat_server):
    chat_server.faults = lambda *_: (422, {}, '{"detail": "field top_p is not supported"}')
    with pytest.raises(ServerError, match="leave_out"):
        list(OpenAIEngine(_settings(chat_server.url)).generate(_requests(1)))
    chat_server.faults = lambda *_: (422, {}, '{"detail": "desktop_printer is not supported"}')
    (row,) = OpenAIEngine(_settings(chat_server.url)).generate(_requests(1))
    assert row.finish_reason == "no_answer"


@pytest.mark.parametrize("extra", ["[1]", "{", '{"model": "x"}', '{"stream": true}', 3])
def test_fields_that_cannot_be_sent_are_refused_as_a_setting(extra):
    with pytest.raises(ValueError, match="extra"):
        ServerSettings(extra=extra)


def test_further_fields_have_one_spelling():
    assert ServerSettings(extra={"b": 1, "a": 2}) == ServerSettings(extra=' {"a":2,  "b":1}')
    assert ServerSettings(extra={}).extra == ServerSettings(extra=" ").extra == ""


@pytest.mark.parametrize(
    "told, seconds",
    [
        ("3", 3),
        ("0.5", 0.5),
        ("-7", 0),
        ("", 0),
        ("soon", 0),
        ("nan", 0),
        ("\u00b2", 0),
        ("Sun, 29 Nov 1931 10:00:00 GMT", 0),
        ("Sun, 99 Nov 2027 10:00:00 GMT", 0),
    ],
)
def test_how_long_a_server_asks_to_wait(told, seconds):
    assert retry_after_s(httpx.Headers([(b"Retry-After", told.encode())])) == seconds


def test_a_wait_told_as_a_date():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 60 < retry_after_s(httpx.Headers({"Retry-After": later})) <= 100


@pytest.mark.parametrize("told", ["9" * 400, "inf", "Fri, 29 Nov 2999 10:00:00 GMT", "1e9"])
def test_a_wait_is_bounded_whatever_is_asked_for(chat_server, told):
    chat_server.faults = lambda n, _: (429, {"Retry-After": told}, "{}") if n == 1 else None
    began = time.monotonic()
    (row,) = OpenAIEngine(_settings(chat_server.url, longest_pause_s=0.2)).generate(_requests(1))
    assert row.finish_reason == "stop" and 0.2 <= time.monotonic() - began < 20


def test_a_redirect_is_not_followed_and_names_the_address(chat_server):
    chat_server.faults = lambda *_: (302, {"Location": "http://127.0.0.1:1/steal"}, "")
    with pytest.raises(ServerError, match=r"status 302 .*candidates\.server\.base_url"):
        list(OpenAIEngine(_settings(chat_server.url)).generate(_requests(1)))


@pytest.mark.parametrize("key", ["sk\nX-Evil: 1", "sk-\u00e9", "two words"])
def test_a_key_that_no_header_holds_is_said_without_it(chat_server, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ServerError, match="the key in OPENAI_API_KEY has characters") as failure:
        OpenAIEngine(_settings(chat_server.url))
    assert "sk" not in str(failure.value) and "two" not in str(failure.value)


def test_a_key_from_a_file_ends_in_a_newline(chat_server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    list(OpenAIEngine(_settings(chat_server.url)).generate(_requests(1)))
    assert chat_server.asked[0][1]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("url", ["http://", "http://host:port/v1", "https://exa mple:x/v1"])
def test_an_address_that_is_none_names_its_setting(url):
    with pytest.raises(ServerError, match=r"candidates\.server\.base_url"):
        OpenAIEngine(_settings(url))


# Which model it is ----------------------------------------------------------------------------------


def test_what_identifies_the_model_is_what_the_server_has(chat_server):
    chat_server.card |= {"root": "/models/a", "created": 1, "permission": [{"id": "new-each-time"}]}
    chat_server.fingerprint = "fp_1"
    found = OpenAIEngine(_settings(chat_server.url)).identify()
    assert found["models"] == {"id": "some-7b", "owned_by": "tests", "root": "/models/a"}
    assert found["fingerprint"] == "fp_1" and len(found["probe"]) == 16
    assert {body["messages"][0]["content"] for *_, body in chat_server.probed} == set(PROBES)
    assert {(body["temperature"], body["seed"]) for *_, body in chat_server.probed} == {(0, 0)}
    chat_server.card["created"], chat_server.card["permission"] = 2, []
    assert OpenAIEngine(_settings(chat_server.url)).identify() == found
    assert not chat_server.asked


@pytest.mark.parametrize("sign", ["models", "fingerprint", "probe"])
def test_each_sign_alone_tells_another_model(chat_server, sign):
    chat_server.fingerprint = "fp_1"
    engine = OpenAIEngine(_settings(chat_server.url, identify_by=(sign,)))
    first = engine.identify()
    assert list(first) == [sign] and engine.identify() == first
    chat_server.card = chat_server.card | {"root": "/models/b"}
    chat_server.fingerprint, chat_server.weights = "fp_2", "b"
    assert engine.identify() != first


def test_a_server_that_lacks_a_sign_is_known_by_the_others(chat_server):
    chat_server.card = None
    assert list(OpenAIEngine(_settings(chat_server.url)).identify()) == ["probe"]
    assert OpenAIEngine(_settings(chat_server.url, identify_by=("models", "fingerprint"))).identify() == {}
    chat_server.probe_faults = lambda n, _: (200, {}, completion({"content": f"Draw {n}."}))
    assert OpenAIEngine(_settings(chat_server.url)).identify() == {"probe": "varies"}


@pytest.mark.parametrize(
    "card", [{"id": "other", "root": "/x"}, "text", 7, None, {"id": "some-7b", "root": "\ud800"}]
)
def test_a_list_of_models_may_be_anything(chat_server, card):
    chat_server.card = card
    found = OpenAIEngine(_settings(chat_server.url)).identify()
    json.dumps(found, ensure_ascii=False).encode()
    assert "probe" in found


@pytest.mark.parametrize("by, identity", [((), {}), (("probe",), {"probe": "varies"})])
def test_a_model_that_cannot_be_told_from_another_is_said_once(chat_server, caplog, by, identity):
    chat_server.probe_faults = lambda n, _: (200, {}, completion({"content": f"Draw {n}."}))
    with GenerationEngine(_settings(chat_server.url, identify_by=by)) as engine:
        assert engine.identify() == engine.identify() == identity
    (line,) = [record.getMessage() for record in caplog.records]
    assert "candidates.server.identify_by" in line and "\n" not in line


# Anything at all ------------------------------------------------------------------------------------

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
_BODIES = (
    st.binary(max_size=40)
    | _VALUES.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {},
        optional={
            "choices": _VALUES
            | st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={
                        "message": _VALUES | st.fixed_dictionaries({}, optional={"content": _VALUES, "refusal": _VALUES}),
                        "finish_reason": _VALUES | st.sampled_from(["stop", "length"]),
                    },
                ),
                max_size=2,
            ),
            "usage": _VALUES,
            "system_fingerprint": _VALUES,
            "error": _VALUES | st.fixed_dictionaries({}, optional={"message": _VALUES, "code": _VALUES, "param": _VALUES}),
        },
    ).map(lambda value: json.dumps(value).encode())
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    status=st.sampled_from([200, 200, 200, 201, 204, 301, 400, 401, 404, 413, 418, 422, 429, 500, 503]),
    headers=st.dictionaries(
        st.sampled_from(["Retry-After", "Content-Encoding", "Content-Type"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
    ),
    body=_BODIES,
)
def test_whatever_a_server_answers_is_rows_or_one_line(chat_server, status, headers, body):
    chat_server.faults = chat_server.probe_faults = lambda *_: (status, headers, body)
    asked = _settings(
        chat_server.url, retries=0, longest_pause_s=0, bad_in_a_row=2, concurrency=2, timeout_s=5
    )
    engine = OpenAIEngine(asked)
    for call in (lambda: list(engine.generate(_requests(3))), engine.identify):
        try:
            json.dumps(
                call() if call == engine.identify else [r.text for r in call()], ensure_ascii=False
            ).encode()
        except ServerError as error:
            assert "\n" not in str(error) and str(error).isprintable()
    engine.close()


@pytest.mark.parametrize(
    "sent", [b"", b"\x00\xff" * 50, b"HTTP/1.1 999999 no\r\n\r\n", b"HTTP/1.1 200 OK\r\nA" * 9]
)
def test_what_is_no_http_is_one_line(sent):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        engine = OpenAIEngine(_settings(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", retries=0))
        rows = engine._pool.submit(lambda: list(engine.generate(_requests(1))))
        taken, _ = listening.accept()
        taken.recv(1 << 16)
        taken.sendall(sent)
        taken.close()
        with pytest.raises(ServerError, match="no connection") as failure:
            rows.result(timeout=10)
        assert "\n" not in str(failure.value) and str(failure.value).isprintable()


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
    asked = _settings(
        chat_server.url, bad_in_a_row=1, timeout_s=0.5
    )  # it answers nothing, however long it takes
    asked = asked.model_copy(update={"args": EngineArgs(stall_timeout_s=0.1)})
    with GenerationEngine(asked) as engine:
        with pytest.raises(EngineError, match="no answer within 0.5 s, after 3 tries"):
            list(engine.generate(_requests(1)))
    slow = ServerSettings(timeout_s=600)
    assert asked.model_copy(update={"server": slow}).stall_limit_s > 6 * 600 + 5 * 30


def test_an_absent_server_and_a_nameless_model_are_said(chat_server):
    url = chat_server.url
    chat_server.shutdown(), chat_server.server_close()
    with pytest.raises(ServerError, match=f"{url}: no connection .*after 3 tries; see to the server"):
        list(OpenAIEngine(_settings(url)).generate(_requests(1)))
    with pytest.raises(ValueError, match="candidates.server.model is empty"):
        GenerationEngine(_settings(url).model_copy(update={"model": ""}))
