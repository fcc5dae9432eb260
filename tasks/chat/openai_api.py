"""A run's rungs behind OpenAI's chat completions, so that any chat client can talk to them, and this project's own engine.

The messages before the last are the history, compressed as in any conversation; a client that sends a growing history pays
for what is new in it. Requests that come together are answered together. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import uuid4

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

from model.generation.settings import Sampling
from model.spoken import Spoken
from storage.errors import InputError
from tasks.chat.conversation import Conversation
from tasks.chat.engine import Engine, Reply
from tasks.chat.models import Models
from tasks.chat.text import utterance
from tasks.chat.weights import RungParts, Trained
from tasks.local_server import guard

MOST_BODY = 4 << 20
MOST_CHARACTERS = 16_000
"""Of a message: what a client asks may be a whole prompt."""
MOST_TOKENS = 4096
MOST_HISTORIES = 256
"""Histories whose memories are kept for a next turn; beyond them the one that was longest without any goes."""
WATCH_S = 1.0
"""How often a request that is being answered is looked at for a client that has gone."""
UNUSED = ("tools", "functions", "logprobs", "stop", "logit_bias", "frequency_penalty", "presence_penalty")
"""Fields that would change an answer and that nothing here follows: refused where they ask for something."""


class Part(BaseModel):
    """A part of a message; text alone is read."""

    type: str
    text: str = ""


class Message(BaseModel):
    """One turn. Further fields, such as a name, mean nothing here."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """InputError where it holds something that is no text."""
        if isinstance(self.content, list):
            other = next((part.type for part in self.content if part.type != "text"), None)
            if other is not None:
                raise InputError(f"messages: a part of type {other!r}; text alone is read here")
            return "".join(part.text for part in self.content)
        return self.content or ""


class Asked(BaseModel, extra="allow"):
    """The body of a chat completion. Fields that are unknown here are passed over, as servers do."""

    model: str = ""
    messages: Annotated[list[Message], Field(min_length=1, max_length=100_000)]
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    n: Literal[1] | None = None
    stream: bool | None = False
    stream_options: dict | None = None

    def sampling(self, most: int) -> Sampling:
        """Greedy where no temperature is asked for, as the rungs' replies are."""
        return Sampling(
            temperature=self.temperature or 0.0,
            top_p=self.top_p or 1.0,
            max_new_tokens=self.max_completion_tokens or self.max_tokens or most,
            seed=self.seed or 0,
        )


@dataclass(frozen=True)
class Question:
    """What is asked: who said what before, and the sentence. left_out: system messages, for which table 6 has no place."""

    history: tuple[Spoken, ...]
    sentence: str
    left_out: int


def question(messages: Sequence[Message]) -> Question:
    """InputError where the last message is no user's, or one cannot be read."""
    said = [message for message in messages if message.role in ("user", "assistant")]
    if not said or said[-1].role != "user":
        raise InputError("messages: the last one must be the user's; that is the one that is answered")
    roles: dict[str, int] = {}
    history = []
    for message in said:
        # In the order of first appearance, as in a dialogue.
        role = roles.setdefault(message.role, len(roles))
        if message.text.strip() or message is said[-1]:
            history.append(Spoken(utterance(message.text, MOST_CHARACTERS)[0], role))
    return Question(tuple(history[:-1]), history[-1].text, len(messages) - len(said))


class Histories:
    """Conversations by what was said in them, so that one that goes on is not read from its beginning. In the engine's
    thread."""

    def __init__(self, kept: int, most: int = MOST_HISTORIES):
        self.kept, self.most = kept, most
        self._known: OrderedDict[bytes, Conversation] = OrderedDict()

    def prompt(self, models: Models, rung: str, asked: Question, most_tokens: int):
        """Input embeddings [T, d], and from where in the history on it had to be read."""
        keys = _keys(asked.history)
        known = next((n for n in range(len(keys), 0, -1) if keys[n - 1] in self._known), 0)
        conversation = self._known[keys[known - 1]].branch() if known else Conversation(self.kept)
        for said in asked.history[known:]:
            conversation.add(said.text, said.role or 0)
        prompt = conversation.prompt(models, rung, asked.sentence, reply=most_tokens)
        if keys:
            self._known[keys[-1]] = conversation
            self._known.move_to_end(keys[-1])
            while len(self._known) > self.most:
                self._known.popitem(last=False)
        return prompt, known


def _keys(history: Sequence[Spoken]) -> list[bytes]:
    """Of each beginning of a history a digest."""
    found: list[bytes] = []
    for said in history:
        before = found[-1] if found else b""
        line = json.dumps([said.text, said.role]).encode()
        found.append(hashlib.blake2b(before + line, digest_size=16).digest())
    return found


def openai_app(engine: Engine, found: Trained, rungs: dict[str, RungParts], host: str) -> FastAPI:
    """rungs: the models that it has, the last of them the one that answers where none is named."""
    app = FastAPI(title="empamba serve", docs_url=None, redoc_url=None, openapi_url=None)
    histories = Histories(found.settings.dialogue.max_history_utterances)
    default = next(reversed(rungs))
    guard(app, host)
    _explain_mistakes(app)

    @app.get("/v1/models")
    async def models() -> dict:
        entries = [_entry(name, parts) for name, parts in rungs.items()]
        return {"object": "list", "data": entries}

    @app.post("/v1/chat/completions")
    async def complete(request: Request, asked: Asked):
        rung = asked.model or default
        if rung not in rungs:
            raise HTTPException(404, f"model {rung!r}: there are {', '.join(rungs)}")
        extra = asked.model_extra or {}
        unused = next((name for name in UNUSED if extra.get(name)), None)
        if unused is not None:
            raise InputError(f"{unused}: not followed here; leave it out")
        wanted, sampling = question(asked.messages), asked.sampling(found.settings.dialogue.max_new_tokens)
        prompt, _ = await asyncio.wrap_future(
            engine.call(lambda models: histories.prompt(models, rung, wanted, sampling.max_new_tokens))
        )
        answer = _Answer(rung, _entry(rung, rungs[rung])["digest"], len(prompt))
        texts: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def more(text: str) -> None:
            loop.call_soon_threadsafe(texts.put_nowait, text)

        reply = engine.reply(rung, prompt, sampling, more)
        headers = {"X-Empamba-Left-Out": f"{wanted.left_out} system messages"} if wanted.left_out else {}
        if asked.stream:
            usage = bool((asked.stream_options or {}).get("include_usage"))
            parts = answer.streamed(reply, texts, usage)
            return StreamingResponse(parts, media_type="text/event-stream", headers=headers)
        while not reply.done.done():
            await asyncio.wait([asyncio.wrap_future(reply.done)], timeout=WATCH_S)
            if not reply.done.done() and await request.is_disconnected():
                reply.stop()
        return JSONResponse(answer.whole(reply), headers=headers)

    return app


class _Answer:
    """A reply in OpenAI's words."""

    def __init__(self, rung: str, fingerprint: str, prompt_tokens: int):
        self.prompt_tokens = prompt_tokens
        self.head = {
            "id": f"chatcmpl-{uuid4().hex}",
            "created": int(time.time()),
            "model": rung,
            "system_fingerprint": fingerprint,
        }

    def whole(self, reply: Reply) -> dict:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": reply.done.result()},
            "finish_reason": _ending(reply),
            "logprobs": None,
        }
        return {**self.head, "object": "chat.completion", "choices": [choice], "usage": self._usage(reply)}

    async def streamed(self, reply: Reply, texts: asyncio.Queue[str], usage: bool) -> AsyncIterator[str]:
        """As server-sent events. A client that goes stops the reply."""
        try:
            yield self._part({"role": "assistant", "content": ""})
            done, told = asyncio.wrap_future(reply.done), ""
            while not (done.done() and texts.empty()):
                more = asyncio.ensure_future(texts.get())
                await asyncio.wait([more, done], return_when=asyncio.FIRST_COMPLETED)
                if not more.done():
                    more.cancel()
                    continue
                text, told = more.result()[len(told) :], more.result()
                yield self._part({"content": text})
            await done
            yield self._part({}, _ending(reply))
            if usage:
                yield _event(
                    {
                        **self.head,
                        "object": "chat.completion.chunk",
                        "choices": [],
                        "usage": self._usage(reply),
                    }
                )
            yield "data: [DONE]\n\n"
        finally:
            reply.stop()

    def _part(self, delta: dict, ending: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": ending, "logprobs": None}
        return _event({**self.head, "object": "chat.completion.chunk", "choices": [choice]})

    def _usage(self, reply: Reply) -> dict:
        new = len(reply.row.tokens)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self.prompt_tokens + new,
        }


def _ending(reply: Reply) -> str:
    return "length" if reply.ended == "length" else "stop"


def _event(value: dict) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _entry(name: str, parts: RungParts) -> dict:
    """A rung in the list of models; its digest is that of all its weights' folders, which the store names by content."""
    folders = [f.name for f in (parts.adapter, parts.compressor, parts.extractor) if f is not None]
    digest = hashlib.blake2b(json.dumps(folders).encode(), digest_size=8).hexdigest()
    return {"id": name, "object": "model", "created": 0, "owned_by": "empamba", "digest": digest}


def _explain_mistakes(app: FastAPI) -> None:
    """Every mistake in OpenAI's form, one line."""

    @app.middleware("http")
    async def bounded(request: Request, follow):
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not length.isdigit():
            return _mistake(411, "a body is read where its size is told beforehand (Content-Length)")
        if request.method == "POST" and int(length) > MOST_BODY:
            return _mistake(413, f"a body of {length} bytes; at most {MOST_BODY} are read")
        return await follow(request)

    @app.exception_handler(InputError)
    async def mistaken(_: Request, error: InputError) -> JSONResponse:
        too_long = "no room" in str(error) or "characters" in str(error)
        return _mistake(400, str(error), "context_length_exceeded" if too_long else None)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        return _mistake(400, f"{name or 'body'}: {first['msg']}", param=name or None)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _mistake(
            error.status_code, error.detail, "model_not_found" if error.status_code == 404 else None
        )


def _mistake(status: int, message: str, code: str | None = None, param: str | None = None) -> JSONResponse:
    kind = "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)
