"""A run's rungs behind OpenAI's chat completions and its older completions, so that any client can talk to them, and this
project's own engine.

Of a chat, the messages before the last are the history, compressed as in any conversation; a client that sends a growing
history pays for what is new in it. The last one may have a clip. Requests that come together are answered together.
Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from torch import Tensor

from model.generation.client import EngineError
from model.generation.streaming import continued, readable
from model.spoken import Spoken
from storage.errors import InputError
from tasks.chat.clips import DECODED_AT_ONCE, Decoded, decode_bytes, features
from tasks.chat.conversation import Conversation, continuation
from tasks.chat.engine import Engine, Made
from tasks.chat.models import Models
from tasks.chat.openai_answers import ChatAnswer, TextAnswer, Texts
from tasks.chat.openai_asked import MOST_CLIP, Asked, AskedReply, AskedText, Question, question
from tasks.chat.weights import RungParts, Trained
from tasks.local_server import guard

MOST_BODY = 4 << 20
MOST_BODY_WITH_CLIP = MOST_BODY + MOST_CLIP // 3 * 4
CHAT = "/v1/chat/completions"
MOST_HISTORIES = 256
"""Histories whose memories are kept for a next turn; beyond them the one that was longest without any goes."""
READ_AT_ONCE = 8
"""Utterances of a history that are read in one job, a tenth of a second: others are answered between two."""
SHORT = 16
"""Tokens of a completion where no limit is asked for: OpenAI's own."""


class Histories:
    """Conversations by what was said in them, so that one that goes on is not read from its beginning."""

    def __init__(self, engine: Engine, kept: int, most: int = MOST_HISTORIES):
        self.engine, self.kept, self.most = engine, kept, most
        self._known: OrderedDict[bytes, Conversation] = OrderedDict()

    async def prompt(
        self,
        rung: str,
        asked: Question,
        most_tokens: int,
        clip: Decoded | None = None,
        gone: Callable[[], bool] = lambda: False,
    ) -> tuple[Tensor, int]:
        """Input embeddings [T, d], and from where in the history on it had to be read. clip: that of the sentence.

        gone: asked while a history is read; HTTPException where the client has, for whom the rest would be read in vain.
        """
        keys = _keys(asked.history)
        known = next((n for n in range(len(keys), 0, -1) if keys[n - 1] in self._known), 0)
        conversation = self._known[keys[known - 1]].branch() if known else Conversation(self.kept)
        for start in range(known, len(keys), READ_AT_ONCE):
            if gone():
                raise HTTPException(499, "the client has gone")
            for said in asked.history[start : start + READ_AT_ONCE]:
                conversation.add(said.text, said.role or 0)
            await self._computed(lambda models: conversation.read(models, rung))
        heard = None if clip is None else await self._computed(partial(features, clip))
        prompt = await self._computed(
            lambda models: conversation.prompt(models, rung, asked.sentence, heard, most_tokens)
        )
        if keys:
            self._known[keys[-1]] = conversation
            self._known.move_to_end(keys[-1])
            while len(self._known) > self.most:
                self._known.popitem(last=False)
        return prompt, known

    def _computed(self, function: Callable[[Models], Made]) -> asyncio.Future[Made]:
        """What the engine makes of it, in a job of its own: others' tokens are made before the next."""
        return asyncio.wrap_future(self.engine.call(function))


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
    histories = Histories(engine, found.settings.dialogue.max_history_utterances)
    default = next(reversed(rungs))
    given_clips = [name for name, parts in rungs.items() if parts.extractor is not None]
    decoding = asyncio.Semaphore(DECODED_AT_ONCE)
    guard(app, host)
    _bound_bodies(app, {CHAT: MOST_BODY_WITH_CLIP} if given_clips else {})
    _explain_mistakes(app)

    def chosen(asked: Asked) -> str:
        """The rung that is to answer."""
        rung = asked.model or default
        if rung not in rungs:
            raise HTTPException(404, f"model {rung!r}: there are {', '.join(rungs)}")
        asked.check()
        return rung

    async def decoded(clip: bytes | None, rung: str) -> Decoded | None:
        if clip is None:
            return None
        if rung not in given_clips:
            seeing = f"{', '.join(given_clips)} can be" if given_clips else "no model served here can be"
            raise InputError(f"messages: {rung} cannot be given a clip; {seeing}")
        async with decoding:
            return await run_in_threadpool(decode_bytes, clip, found.settings.features, found.settings.media)

    async def answered(
        left: asyncio.Future[None], asked: Asked, rung: str, prompts: Sequence[Tensor], how: _How
    ) -> Response:
        answer = how.form(rung, _entry(rung, rungs[rung])["digest"], sum(map(len, prompts)))
        texts: Texts = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def more(n: int, text: str) -> None:
            loop.call_soon_threadsafe(texts.put_nowait, (n, text))

        replies = [
            engine.reply(rung, prompt, asked.sampling(how.most), partial(more, n), how.read)
            for n, prompt in enumerate(prompts)
        ]
        if asked.stream:
            parts = answer.streamed(replies, texts, asked.usage_in_stream)
            return StreamingResponse(parts, media_type="text/event-stream", headers=how.headers)
        done = asyncio.gather(*(asyncio.wrap_future(reply.done) for reply in replies))
        either: list[asyncio.Future[Any]] = [done, left]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            for reply in replies:
                reply.stop()
        await done
        return JSONResponse(answer.whole(replies), headers=how.headers)

    @app.get("/v1/models")
    async def models() -> dict:
        entries = [_entry(name, parts) for name, parts in rungs.items()]
        return {"object": "list", "data": entries}

    @app.post(CHAT)
    async def reply(request: Request, asked: AskedReply) -> Response:
        rung, most = chosen(asked), found.settings.dialogue.max_new_tokens
        wanted = await run_in_threadpool(question, asked.messages)  # seconds, of megabytes of text
        limit = asked.sampling(most).max_new_tokens
        clip = await decoded(wanted.clip, rung)
        told = {"X-Empamba-Left-Out": wanted.left_out, "X-Empamba-Clip": str(clip or "")}
        headers = {name: value for name, value in told.items() if value}
        with _watched(request) as left:
            prompt, _ = await histories.prompt(rung, wanted, limit, clip, left.done)
            return await answered(left, asked, rung, [prompt], _How(ChatAnswer, most, readable, headers))

    @app.post("/v1/completions")
    async def go_on(request: Request, asked: AskedText) -> Response:
        rung, limit = chosen(asked), asked.sampling(SHORT).max_new_tokens
        prompts = await asyncio.wrap_future(
            engine.call(lambda models: [continuation(models, rung, text, limit) for text in asked.prompt])
        )
        with _watched(request) as left:
            return await answered(left, asked, rung, prompts, _How(TextAnswer, SHORT, continued))

    return app


@contextmanager
def _watched(request: Request) -> Iterator[asyncio.Future[None]]:
    """Within the block: what is done once the client has gone. `Request.is_disconnected` never is, behind a middleware."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watching = asyncio.ensure_future(left())
    try:
        yield watching
    finally:
        watching.cancel()


class _How(NamedTuple):
    """form: in whose words. most: tokens, where no limit is asked for. read: tokens as text."""

    form: type[ChatAnswer]
    most: int
    read: Callable[..., str]
    headers: dict[str, str] = {}


def _entry(name: str, parts: RungParts) -> dict:
    """A rung in the list of models; its digest is that of all its weights' folders, which the store names by content."""
    folders = [f.name for f in (parts.adapter, parts.compressor, parts.extractor) if f is not None]
    digest = hashlib.blake2b(json.dumps(folders).encode(), digest_size=8).hexdigest()
    return {"id": name, "object": "model", "created": 0, "owned_by": "empamba", "digest": digest}


def _bound_bodies(app: FastAPI, larger: dict[str, int]) -> None:
    """Turn away what is too large before it is read. larger: path -> bytes, where that is more than `MOST_BODY`."""

    @app.middleware("http")
    async def bounded(request: Request, follow):
        length, most = request.headers.get("content-length", ""), larger.get(request.url.path, MOST_BODY)
        if request.method == "POST" and not length.isdigit():
            return _mistake(411, "a body is read where its size is told beforehand (Content-Length)")
        if request.method == "POST" and int(length) > most:
            return _mistake(413, f"a body of {length} bytes; at most {most} are read")
        return await follow(request)


def _explain_mistakes(app: FastAPI) -> None:
    """Every mistake in OpenAI's form, one line."""

    @app.exception_handler(InputError)
    async def mistaken(_: Request, error: InputError) -> JSONResponse:
        too_long = "no room" in str(error) or "characters" in str(error)
        return _mistake(400, str(error), "context_length_exceeded" if too_long else None)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        told = first["msg"].removeprefix("Value error, ")
        code = "context_length_exceeded" if "characters" in told else None
        return _mistake(400, f"{name or 'body'}: {told}", code, name or None)

    @app.exception_handler(EngineError)
    async def broken(_: Request, error: EngineError) -> JSONResponse:
        return _mistake(503, str(error))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _mistake(
            error.status_code, error.detail, "model_not_found" if error.status_code == 404 else None
        )


def _mistake(status: int, message: str, code: str | None = None, param: str | None = None) -> JSONResponse:
    kind = "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)
