"""The endpoint, asked by the project's own engine and by bare HTTP: replies are those of a conversation."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest
import torch

from model.generation.openai_engine import OpenAIEngine
from model.generation.protocol import GenerationRequest
from model.generation.settings import EngineSettings, Sampling, ServerSettings
from model.spoken import Spoken
from tasks.chat.clips import decode
from tasks.chat.conversation import Conversation
from tasks.chat.openai_api import Histories, openai_app
from tasks.chat.openai_asked import Message, question
from tasks.chat.talk import Talk
from tests.support.clips import turn_with_clip, write_clip
from tests.support.served import served
from tests.support.waiting import wait_for

GREEDY = Sampling(temperature=0, max_new_tokens=8)


@pytest.fixture(scope="module")
def url(engine, found):
    rungs = {name: found.rungs[name] for name in ("2-ft", "3-mc", "5-epo")}
    with served(openai_app(engine, found, rungs, "127.0.0.1")) as address:
        yield f"{address}/v1"


@pytest.fixture(scope="module")
def talked(engine, found):
    """Two turns with rung 3, as messages, and the answer to the last."""
    talking = Talk(engine, found, "3-mc", GREEDY)
    first, second = talking.say("I have lost my keys again."), talking.say("What shall I do now?")
    said = [("user", first.text), ("assistant", first.answers[0].text), ("user", second.text)]
    return [{"role": role, "content": text} for role, text in said if text], second.answers[0].text


def lines(count: int) -> list[dict]:
    """So many messages, the user's and the assistant's in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": f"Line {n}."} for n in range(count)]


def asked(url, messages, status=200, **fields):
    body = {"messages": messages, "max_tokens": 8, **fields}
    done = httpx.post(f"{url}/chat/completions", json=body, timeout=60)
    assert done.status_code == status, done.text
    return done.json()


@contextmanager
def left_while_waiting(url, body: dict):
    """A client of rung 3 that goes at the end of the block, whatever it was told by then."""
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=60)) as client:
        told = {"Content-Type": "application/json"}
        client.request("POST", "/v1/chat/completions", json.dumps({**body, "model": "3-mc"}), told)
        yield


def test_openai_s_own_client_is_answered(url, talked):
    openai = pytest.importorskip("openai", reason="no client of OpenAI's here to ask the endpoint with")
    messages, wanted = talked
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        assert [model.id for model in client.models.list()] == ["2-ft", "3-mc", "5-epo"]
        whole = client.chat.completions.create(model="3-mc", messages=messages, max_tokens=8)
        assert whole.choices[0].message.content == wanted and whole.usage.completion_tokens <= 8
        stream = client.chat.completions.create(model="3-mc", messages=messages, max_tokens=8, stream=True)
        parts = [part.choices[0] for part in stream if part.choices]
        said = [part.delta.content for part in parts if part.delta.content]
        assert "".join(said) == wanted and len(said) > 1
        assert parts[-1].finish_reason == whole.choices[0].finish_reason
        with pytest.raises(openai.NotFoundError, match="gpt-9"):
            client.chat.completions.create(model="gpt-9", messages=messages)


def test_the_project_s_own_engine_is_answered(url, engine, found):
    server = ServerSettings(base_url=url, concurrency=8, retries=0)
    settings = EngineSettings(model="3-mc", engine="openai", sampling=GREEDY, server=server, restarts=0)
    texts = [f"So that is all, number {n}?" for n in range(8)]
    requests = [GenerationRequest(t, ({"role": "user", "content": t},), seed=n) for n, t in enumerate(texts)]
    client = OpenAIEngine(settings)
    rows = {row.key: row for row in client.generate(requests)}
    for text in texts:
        wanted = Talk(engine, found, "3-mc", GREEDY).say(text).answers[0]
        # What is no reply by its form, such as bytes of no character, the engine names and passes over.
        assert rows[text].finish_reason in (wanted.ended, "garbled") and rows[text].tries == 1
        assert rows[text].text == wanted.text or rows[text].finish_reason == "garbled"
        assert rows[text].new_tokens > 0
    identity = client.identify()
    assert "3-mc" in json.dumps(identity) and "digest" in json.dumps(identity)


def test_history_whole_and_streamed_answer_is_the_conversation_s(url, talked):
    messages, wanted = talked
    whole = asked(url, messages, model="3-mc")
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": wanted}
    assert whole["object"] == "chat.completion" and whole["usage"]["completion_tokens"] <= 8
    body = {"messages": messages, "model": "3-mc", "max_tokens": 8, "stream": True}
    body["stream_options"] = {"include_usage": True}
    with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=60) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    parts = [json.loads(line[6:]) for line in lines[:-1]]
    text = "".join(p["choices"][0]["delta"].get("content", "") for p in parts if p["choices"])
    assert text == wanted and parts[-1]["usage"] == whole["usage"]
    assert parts[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    without = asked(url, messages[-1:], model="3-mc")
    assert without["usage"]["prompt_tokens"] < whole["usage"]["prompt_tokens"]


def test_a_growing_history_is_read_once(engine, found):
    histories = Histories(engine, kept=6)

    def prompted(count: int) -> tuple[torch.Tensor, int]:
        return asyncio.run(histories.prompt("3-mc", question([Message(**m) for m in lines(count)]), 8))

    assert [prompted(n)[1] for n in (1, 3, 5, 7, 5, 31)] == [0, 0, 2, 4, 4, 6]
    for count in (7, 31):  # the longer one in several jobs
        fresh = Conversation(6)
        fresh.said = [Spoken(f"Line {n}.", n % 2) for n in range(count - 1)]
        sentence = f"Line {count - 1}."
        wanted = engine.call(lambda m, to=fresh, s=sentence: to.prompt(m, "3-mc", s, reply=8)).result()
        assert (prompted(count)[0] - wanted).abs().max() < 1e-4


@pytest.fixture
def reading(engine, found, monkeypatch):
    """Utterances that the compressor has read, the first of which waits until it may."""
    compressor = engine.call(lambda models: models.compressor(found.rungs["3-mc"].compressor)).result()
    step, read, may = compressor.step, [], threading.Event()

    def counted(utterance, states):
        read.append(utterance)
        assert may.wait(60)
        return step(utterance, states)

    monkeypatch.setattr(compressor, "step", counted)
    return read, may


def test_a_long_history_holds_up_nobody_else(url, engine, reading):
    read, may = reading
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(asked, url, lines(201), model="3-mc")
        wait_for(lambda: read)
        others = engine.call(lambda models: len(read))
        may.set()
        assert others.result(60) < 20
        assert long.result()["choices"] and len(read) == 200


def test_a_long_history_is_not_read_for_a_client_that_has_gone(url, engine, reading):
    read, may = reading
    with left_while_waiting(url, {"messages": lines(2001), "max_tokens": 8}):
        wait_for(lambda: read)
    may.set()
    asked(url, lines(1), model="2-ft")  # between whose tokens more would be read
    before = len(read)
    asked(url, lines(1), model="2-ft")
    assert len(read) == before < 1000


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "a.mp4")


def test_a_clip_goes_with_its_turn_and_one_before_is_left_out(url, engine, found, film, tmp_path):
    sound = write_clip(tmp_path / "b.mp4", picture=False)
    for kind, path, held in (("video_url", film, "heard and seen"), ("input_audio", sound, "heard")):
        clip = decode(path, found.settings.features, found.settings.media)
        wanted = Talk(engine, found, "5-epo", GREEDY).say("How do I look?", clip).answers[0].text
        turn = turn_with_clip("How do I look?", kind, path.read_bytes())
        done = httpx.post(f"{url}/chat/completions", json={"messages": [turn], "max_tokens": 8}, timeout=60)
        assert done.json()["choices"][0]["message"]["content"] == wanted
        assert done.headers["X-Empamba-Clip"].endswith(f" s, {held}")
        without = asked(url, [{"role": "user", "content": "How do I look?"}])
        assert done.json()["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"]
    later = [{"role": "assistant", "content": "Well."}, {"role": "user", "content": "Sure?"}]
    body = {"messages": [turn, *later], "model": "2-ft", "max_tokens": 8}  # which no clip can be given to
    done = httpx.post(f"{url}/chat/completions", json=body, timeout=60)
    assert done.headers["X-Empamba-Left-Out"] == "1 clips of earlier turns"
    said = [{"role": "user", "content": "How do I look?"}, *later]
    assert done.json()["choices"] == asked(url, said, model="2-ft")["choices"]


@pytest.mark.parametrize(
    "part, told",
    [
        (
            {"type": "video_url", "video_url": {"url": "file:///etc/passwd"}},
            "neither addresses nor files are",
        ),
        ({"type": "video_url", "video_url": {"url": "http://127.0.0.1/a,b"}}, "as data:video/…;base64,…"),
        (
            {"type": "audio_url", "audio_url": {"url": "data:text/html;base64,AAAA"}},
            "as data:audio/…;base64,…",
        ),
        ({"type": "input_audio", "input_audio": {"data": "../a.wav"}}, "input_audio.data: no base64"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA"}}, "clip: corrupt"),
        ({"type": "input_audio", "input_audio": {"data": "A" * (23 << 20)}}, "at most 16.8 MB here"),
        ({"type": "input_audio", "input_audio": {"url": "AAAA"}}, "input_audio.data is to be a text"),
        ({"type": "video_url", "video_url": "AAAA"}, "video_url.url is to be a text that holds"),
    ],
)
def test_a_clip_that_cannot_be_read_is_one_line(url, part, told):
    turn = {"role": "user", "content": [part, {"type": "text", "text": "Well?"}]}
    error = asked(url, [turn], 400)["error"]
    assert told in error["message"] and "\n" not in error["message"] and len(error["message"]) < 200


def test_a_rung_that_no_clip_can_be_given_to_says_so(url, film):
    turn = turn_with_clip("Look.", "video_url", film.read_bytes())
    told = asked(url, [turn], 400, model="2-ft")["error"]["message"]
    assert told == "messages: 2-ft cannot be given a clip; 5-epo can be"
    turn["content"].append(turn["content"][0])
    assert "2 clips in one turn" in asked(url, [turn], 400)["error"]["message"]
    turn["content"] = turn["content"][:1]
    assert "type what is said, beside a clip too" in asked(url, [turn], 400)["error"]["message"]


def test_requests_that_come_together_are_answered_together(url, engine):
    most = []
    decoders = engine._decoders
    with ThreadPoolExecutor(6) as pool:
        asking = [
            pool.submit(asked, url, [{"role": "user", "content": f"Tell me of {n}."}], max_tokens=40)
            for n in range(6)
        ]
        while not all(f.done() for f in asking):
            most.append(max((len(d.rows) for d in list(decoders.values())), default=0))
            time.sleep(0.001)
    alone = [asked(url, [{"role": "user", "content": f"Tell me of {n}."}], max_tokens=40) for n in range(6)]
    assert [f.result()["choices"] for f in asking] == [a["choices"] for a in alone]
    assert max(most) > 1


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_goes_stops_its_reply(url, engine, monkeypatch, streamed):
    """The second token waits until the reply was stopped: however busy the machine, the client is gone before the end."""
    decoder = engine.call(lambda models: engine._decoder("3-mc")).result(60)
    step, replies = decoder.step, []

    def one_token_then_wait():
        (reply,) = engine._going["3-mc"]
        if replies:
            wait_for(lambda: reply.stopped)
        replies.append(reply)
        step()

    monkeypatch.setattr(decoder, "step", one_token_then_wait)
    said = [{"role": "user", "content": "Go on."}]
    with left_while_waiting(url, {"messages": said, "max_tokens": 1000, "stream": streamed}):
        wait_for(lambda: replies)
    replies[0].done.result(120)
    assert replies[0].ended == "stopped" and len(replies[0].row.tokens) < 1000


def test_models_are_the_rungs_and_the_last_one_answers_unnamed(url):
    entries = httpx.get(f"{url}/models").json()["data"]
    assert [entry["id"] for entry in entries] == ["2-ft", "3-mc", "5-epo"]
    assert len({entry["digest"] for entry in entries}) == 3
    assert asked(url, [{"role": "user", "content": "Well?"}])["model"] == "5-epo"
    told = asked(url, [{"role": "user", "content": "Well?"}], 404, model="gpt-4o")["error"]
    assert (
        told["message"] == "model 'gpt-4o': there are 2-ft, 3-mc, 5-epo" and told["code"] == "model_not_found"
    )


@pytest.mark.parametrize(
    "change, told",
    [
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "assistant", "content": "Hm."}]}, "the last one must be the user's"),
        ({"messages": [{"role": "user", "content": ""}]}, "the turn is empty"),
        ({"messages": [{"role": "user", "content": "x" * 17000}]}, "17,000 characters"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "type 'image_url'; text and clips (input_audio",
        ),
        ({"n": 2}, "n: Input should be 1"),
        ({"stop": ["."]}, "stop: not followed here; leave it out"),
        ({"temperature": 9}, "temperature: Input should be less than"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater"),
    ],
)
def test_a_mistake_is_one_line_in_openai_s_form(url, change, told):
    body = {"messages": [{"role": "user", "content": "Well?"}], **change}
    done = httpx.post(f"{url}/chat/completions", json=body, timeout=60)
    error = done.json()["error"]
    assert done.status_code == 400 and told in error["message"] and "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"


def completed(url, status=200, **fields):
    done = httpx.post(f"{url}/completions", json={"model": "2-ft", "max_tokens": 8, **fields}, timeout=60)
    assert done.status_code == status, done.text
    return done.json()


TEXTS = ["The weather is nice, and", "<|im_start|>user\nWell?<|im_end|>\n<|im_start|>assistant\n", "A"]


@torch.no_grad()
def gone_on(models, text: str) -> tuple[str, int]:
    """What transformers' own generation goes on with, and how many tokens the text has; marks of the template are tokens."""
    with models.rung("2-ft") as model:
        tokenizer = model.tokenizer
        ids = tokenizer(text, return_tensors="pt").input_ids
        made = model.llm.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8
        )
        return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True), ids.shape[1]


def test_a_completion_goes_on_from_the_text_as_it_is(url, engine):
    wanted = [engine.call(lambda models, text=text: gone_on(models, text)).result() for text in TEXTS]
    assert any(text != text.strip() for text, _ in wanted)  # the spaces around it are its own
    whole = completed(url, prompt=TEXTS)
    assert [choice["text"] for choice in whole["choices"]] == [text for text, _ in wanted]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert whole["object"] == "text_completion" and whole["id"].startswith("cmpl-")
    assert whole["usage"]["prompt_tokens"] == sum(size for _, size in wanted)
    alone = completed(url, prompt=TEXTS[0])
    assert alone["choices"] == whole["choices"][:1] and alone["usage"]["prompt_tokens"] == wanted[0][1]
    body = {"prompt": TEXTS, "model": "2-ft", "max_tokens": 8, "stream": True}
    body["stream_options"] = {"include_usage": True}
    with httpx.stream("POST", f"{url}/completions", json=body, timeout=60) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    parts = [json.loads(line[6:]) for line in lines[:-1]]
    told = ["", "", ""]
    for part in parts:
        assert part["object"] == "text_completion"
        for choice in part["choices"]:
            told[choice["index"]] += choice["text"]
    assert told == [text for text, _ in wanted] and parts[-1]["usage"] == whole["usage"]
    endings = {c["index"]: c["finish_reason"] for p in parts for c in p["choices"] if c["finish_reason"]}
    assert endings == {n: choice["finish_reason"] for n, choice in enumerate(whole["choices"])}
    assert completed(url, prompt="A", max_tokens=None)["usage"]["completion_tokens"] <= 16


@pytest.mark.parametrize(
    "change, told",
    [
        ({"prompt": ""}, "prompt: it is empty"),
        ({"prompt": ["A", ""]}, "prompt: it is empty"),
        ({"prompt": []}, "prompt: a text, or a list of at most 16 texts"),
        ({"prompt": ["A"] * 17}, "a list of at most 16 texts"),
        ({"prompt": [1, 2]}, "token ids are not read here"),
        ({"prompt": None}, "prompt: a text"),
        ({"prompt": "a " * 8001}, "16,002 characters; at most 16,000"),
        ({"prompt": "one two " * 1000}, "no room with 8 more in the LLM's window of 2,048"),
        ({"echo": True}, "echo: not followed here; leave it out"),
        ({"suffix": "."}, "suffix: not followed here"),
        ({"logprobs": 3}, "logprobs: not followed here"),
        ({"best_of": 2}, "best_of: Input should be 1"),
        ({"n": 2}, "n: Input should be 1"),
    ],
)
def test_a_mistake_in_a_completion_is_one_line(url, change, told):
    error = completed(url, 400, **{"prompt": "A", **change})["error"]
    assert told in error["message"] and "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"
    long = "characters" in told or "no room" in told
    assert error["code"] == ("context_length_exceeded" if long else None)
    assert completed(url, 404, prompt="A", model="gpt-4o")["error"]["code"] == "model_not_found"


def test_system_messages_are_left_out_and_counted(url):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Well?"}]
    with_it = httpx.post(f"{url}/chat/completions", json={"messages": messages}, timeout=60)
    without = httpx.post(f"{url}/chat/completions", json={"messages": messages[1:]}, timeout=60)
    assert with_it.headers["X-Empamba-Left-Out"] == "1 system messages"
    assert "X-Empamba-Left-Out" not in without.headers
    assert with_it.json()["choices"] == without.json()["choices"]


def test_only_this_machine_s_names_and_pages_are_answered(url):
    assert httpx.get(f"{url}/models", headers={"Host": "evil.example"}).status_code == 400
    body = {"messages": [{"role": "user", "content": "Well?"}]}
    foreign = httpx.post(f"{url}/chat/completions", json=body, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    large = httpx.post(f"{url}/completions", content=b" " * (5 << 20))
    assert large.status_code == 413 and "at most" in large.json()["error"]["message"]
    assert httpx.post(f"{url}/chat/completions", content=iter([b"{}"])).status_code == 411
