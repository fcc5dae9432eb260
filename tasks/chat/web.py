"""The conversation as a page: what the browser asks, and what it is told as it comes (server-sent events).

The history is the server's: a page that was closed, or lost the connection, finds it again by the id in its address.
Every request is bounded before anything is made of it. The page itself is in page/. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from model.generation.settings import Sampling
from storage.errors import InputError
from tasks.chat.clips import DECODED_AT_ONCE, MOST_BYTES, Decoded, decode
from tasks.chat.engine import Engine
from tasks.chat.rooms import Room, Rooms
from tasks.chat.talk import Talk
from tasks.chat.text import MOST_CHARACTERS
from tasks.chat.weights import Trained
from tasks.local_server import guard
from tasks.terminal import size_text

PAGE = Path(__file__).parent / "page"
FILES = {"/": "chat.html", "/chat.css": "chat.css", "/chat.js": "chat.js"}
MOST_BODY = 64 << 10
"""Bytes of a request that is no clip."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src 'self' blob:; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: this server's own files, and what the browser itself recorded."""


class Said(BaseModel, extra="forbid"):
    """A turn. Longer ones than a turn may be are turned away by name, in `tasks/chat/text.py`."""

    text: str = Field(max_length=MOST_BODY)
    clip: str | None = Field(None, max_length=64)


class Choice(BaseModel, extra="forbid"):
    """Which rung answers, and which one beside it."""

    rung: str = Field(max_length=64)
    beside: str | None = Field(None, max_length=64)


def web_app(engine: Engine, found: Trained, rung: str, sampling: Sampling, run: str, host: str) -> FastAPI:
    """The page's server. run: the run's id, for the page and for what is saved."""
    app = FastAPI(title="empamba chat", docs_url=None, redoc_url=None, openapi_url=None)
    rooms, decoding = Rooms(), asyncio.Semaphore(DECODED_AT_ONCE)
    app.state.rooms = rooms
    guard(app, host)
    _turn_away_large_bodies(app)
    _explain_mistakes(app)
    for address, file in FILES.items():
        app.add_api_route(address, _sent(PAGE / file), methods=["GET"])

    def room_of(name: str) -> Room:
        try:
            return rooms.find(name)
        except LookupError as error:
            raise HTTPException(404, str(error)) from None

    @app.get("/about")
    async def about() -> dict:
        return {
            "run": run,
            "rungs": {name: parts.rung.title for name, parts in found.rungs.items()},
            "absent": found.absent,
            "notes": found.notes,
            "emotions": found.extractor is not None,
            "most_seconds": found.settings.features.max_seconds,
            "most_bytes": MOST_BYTES,
            "most_characters": MOST_CHARACTERS,
        }

    @app.post("/conversations")
    async def begin() -> dict:
        return {"id": rooms.open(Talk(engine, found, rung, sampling), asyncio.get_running_loop()).name}

    @app.get("/conversations/{name}/events")
    async def events(
        name: str, after: int = 0, last_event_id: Annotated[int | None, Header()] = None
    ) -> StreamingResponse:
        seen = after if last_event_id is None else last_event_id
        return StreamingResponse(_events(room_of(name), seen), media_type="text/event-stream")

    @app.post("/conversations/{name}/turns")
    async def say(name: str, said: Said) -> dict:
        await run_in_threadpool(room_of(name).say, said.text, said.clip)
        return {}

    @app.post("/conversations/{name}/stop")
    async def stop(name: str) -> dict:
        room_of(name).talk.stop()
        return {}

    @app.post("/conversations/{name}/rung")
    async def choose(name: str, choice: Choice) -> dict:
        room = room_of(name)
        chosen = found.named(choice.rung).rung.name
        beside = None if choice.beside is None else found.named(choice.beside).rung.name
        room.talk.rung, room.talk.beside = chosen, beside
        room.changed()
        return {}

    @app.post("/conversations/{name}/clips")
    async def clip(name: str, request: Request) -> dict:
        room = room_of(name)
        with tempfile.TemporaryDirectory(prefix="empamba-clip-") as folder:
            path = Path(folder) / "clip"
            await _received(request, path)
            async with decoding:
                decoded = await run_in_threadpool(decode, path, found.settings.features, found.settings.media)
        return {"id": room.keep(decoded), **_described(decoded)}

    @app.get("/conversations/{name}/recall")
    async def recall(name: str) -> dict:
        return {"lines": await run_in_threadpool(room_of(name).talk.recall)}

    @app.get("/conversations/{name}/saved")
    async def saved(name: str) -> JSONResponse:
        return JSONResponse(
            {"run": run, **room_of(name).talk.saved()},
            headers={"Content-Disposition": 'attachment; filename="empamba-chat.json"'},
        )

    return app


def _sent(path: Path) -> Callable:
    async def file() -> FileResponse:
        headers = {
            "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
        }  # fmt: skip
        return FileResponse(path, headers=headers)

    return file


async def _events(room: Room, after: int) -> AsyncIterator[str]:
    # A page that knows of changes which never were is one of a server before this one.
    after = after if after <= room.version else 0
    async for change in room.changes(after):
        if change is None:
            yield ": alive\n\n"
        else:
            yield f"id: {change['version']}\ndata: {json.dumps(change)}\n\n"


async def _received(request: Request, path: Path) -> None:
    """A request's body as a file. 413 as soon as it is known to be too large."""
    size = 0
    with open(path, "wb") as file:
        async for part in request.stream():
            size += len(part)
            if size > MOST_BYTES:
                raise HTTPException(413, _too_large(MOST_BYTES))
            file.write(part)
    if not size:
        raise InputError("the clip is empty; record or choose it again")


def _described(decoded: Decoded) -> dict:
    return {
        "seconds": round(decoded.seconds, 2),
        "heard": decoded.sound is not None,
        "seen": decoded.frames is not None,
        "notes": decoded.notes,
    }


def _too_large(most: int) -> str:
    return f"larger than {size_text(most)}"


def _turn_away_large_bodies(app: FastAPI) -> None:
    @app.middleware("http")
    async def bounded(request: Request, follow):
        most = MOST_BYTES if request.url.path.endswith("/clips") else MOST_BODY
        length = request.headers.get("content-length")
        chunked = request.method == "POST" and length is None and most == MOST_BODY
        if chunked or (length is not None and not (length.isdigit() and int(length) <= most)):
            return JSONResponse({"error": _too_large(most)}, 413)
        return await follow(request)


def _explain_mistakes(app: FastAPI) -> None:
    """Every mistake is one line, under "error"."""

    @app.exception_handler(InputError)
    async def mistaken(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 400)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code)
