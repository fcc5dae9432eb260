"""The study's application: a participant's pages by an unguessable link, and every click on the disk before it is answered.

Works as plain forms; a script saves each click at once. No cookies: a link is all that a browser needs to go on. What runs
it is tasks/study/serve.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import parse_qs

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.study import pages, participants
from tasks.study.journal import Job, Journal, T
from tasks.study.participants import AlreadyHere, Dismissed, NoPlace, Participant, TooMany
from tasks.study.study import Question, Shown, Study, read_access, read_study

Sent = TypeVar("Sent", bound=BaseModel)
MOST_BODY = 1 << 16
"""Bytes that a click or a form may send; a real one is a few hundred."""
LINK = re.compile(r"[A-Za-z0-9_-]{22,64}")
PROLIFIC_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
VALUES = {"1", "2", "3"}
UNDERSTOOD = "each"
"""The right answer to the instructions' question."""
HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "media-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",  # the address is the participant's key
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "x-robots-tag": "noindex",
}
NO_STORE = {"cache-control": "no-store"}


class Click(BaseModel, frozen=True, extra="forbid"):
    """An answer as the page's script sends it. reply: its place on the page, from 0. click: a name of the click's own."""

    reply: int = Field(ge=0, le=20)
    question: Question
    value: int = Field(ge=1, le=3)
    click: str = Field(pattern=r"^[A-Za-z0-9-]{8,64}$")
    after_ms: int | None = Field(None, ge=0, le=10**9)


class Event(BaseModel, frozen=True, extra="forbid"):
    """What became of a clip. turn: of the conversation, from 0."""

    turn: int = Field(ge=0, le=10_000)
    kind: Literal["ended", "error", "stalled"]
    detail: str = Field("", max_length=200)


class Visit:
    """A participant and what they are shown."""

    def __init__(self, study: Study, participant: Participant, given: dict[str, participants.Answers]):
        self.study, self.participant, self.given = study, participant, given
        self.shown = study.places[participant.place]
        self.open = participants.open_items(study, participant, given)

    @property
    def home(self) -> str:
        return f"/s/{self.participant.token}"

    @property
    def next(self) -> str:
        """Where the participant goes on."""
        if self.participant.completed is not None:
            return f"{self.home}/done"
        if self.participant.begun is None:
            return self.home
        return f"{self.home}/{(self.open[0] if self.open else len(self.shown) - 1) + 1}"


def study_app(folder: Path) -> ASGIApp:
    """The application for one study's folder. Its journal is open while the server runs."""
    study, access = read_study(folder), read_access(folder)
    journal = Journal(folder / "judgements.sqlite")

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        journal.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    async def do(job: Job[T]) -> T:
        return await asyncio.wrap_future(journal.submit(job))

    async def visit(token: str, completed: bool = False) -> Visit:
        """404 for whoever has no link, 410 for whom it was taken back from. completed: one who is done may come too."""

        def read(connection) -> tuple[Participant, dict] | None:
            found = participants.invited(connection, access.tokens, token, time.time())
            return None if found is None else (found, participants.answers(connection, found))

        if not LINK.fullmatch(token):
            raise HTTPException(404)
        found = await do(read)
        if found is None:
            raise HTTPException(404)
        if found[0].released is not None:
            raise HTTPException(410)
        made = Visit(study, *found)
        if found[0].completed is not None and not completed:
            raise Elsewhere(f"{made.home}/done")
        return made

    async def at(token: str, number: int) -> tuple[Visit, Shown]:
        """A visit to one of the participant's own items, of which those up to the first open one may be seen."""
        made = await visit(token)
        if not 1 <= number <= len(made.shown):
            raise HTTPException(404)
        upto = made.open[0] if made.open else len(made.shown) - 1
        if made.participant.begun is None or number - 1 > upto:
            raise Elsewhere(made.next)
        return made, made.shown[number - 1]

    @app.exception_handler(Elsewhere)
    async def elsewhere(_: Request, error: Elsewhere) -> Response:
        return RedirectResponse(error.where, 303, NO_STORE)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        title, line = REFUSALS.get(error.status_code, ("This did not work", str(error.detail)))
        return html(pages.message(title, line), error.status_code)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, _: RequestValidationError) -> Response:
        return await refused(request, HTTPException(422))

    @app.exception_handler(TooMany)
    async def too_many(request: Request, _: TooMany) -> Response:
        return await refused(request, HTTPException(429))

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in pages.STATIC:
            raise HTTPException(404)
        return Response(
            pages.static(name), media_type=pages.STATIC[name], headers={"cache-control": "max-age=300"}
        )

    @app.get("/")
    async def enter(request: Request) -> Response:
        asked = [request.query_params.get(name, "") for name in ("PROLIFIC_PID", "STUDY_ID", "SESSION_ID")]
        if not study.prolific:
            return html(pages.message(study.title, "Please open the link that you were given."))
        if not all(PROLIFIC_ID.fullmatch(value) for value in asked):
            return html(pages.message(study.title, "Please open this study from its page on Prolific."), 400)
        try:
            person, of, session = asked
            now = time.time()
            found = await do(lambda c: participants.sent_by_prolific(c, study, person, of, session, now))
        except Dismissed:
            raise HTTPException(410) from None
        except NoPlace:
            line = "All places are taken at the moment. Please return this submission on Prolific; thank you for coming."
            return html(pages.message("No place is free", line), 409)
        except AlreadyHere:
            line = "You have begun this study before. Please go on by the link that it was begun with."
            return html(pages.message("You are here already", line), 409)
        return RedirectResponse(f"/s/{found.token}", 303, NO_STORE)

    @app.get("/s/{token}")
    async def begin(token: str, instructions: bool = False) -> Response:
        made = await visit(token)
        if made.participant.begun is not None and not instructions:
            raise Elsewhere(made.next)
        return html(pages.instructions(study, token, made.participant.begun is not None))

    @app.post("/s/{token}")
    async def begun(token: str, request: Request) -> Response:
        made, form = await visit(token), await form_of(request)
        now = time.time()
        if form.get("understood") != UNDERSTOOD or form.get("agree") != "yes":
            detail = str(form.get("understood"))[:20]
            await do(
                lambda c: participants.note(c, made.participant, None, None, "misunderstood", detail, now)
            )
            return html(pages.instructions(study, token, False, wrong=True), 422)
        await do(lambda c: participants.begin(c, made.participant, now))
        return RedirectResponse(f"{made.home}/1", 303, NO_STORE)

    @app.get("/s/{token}/done")
    async def done(token: str) -> Response:
        made = await visit(token, completed=True)
        if made.participant.completed is None:
            raise Elsewhere(made.next)
        return html(pages.done(study, token, access.completion_code, access.completion_url))

    @app.get("/s/{token}/{number:int}")
    async def item(token: str, number: int, missing: bool = False) -> Response:
        made, seen = await at(token, number)
        given = made.given.get(seen.item, {})
        return html(pages.item(study, token, number - 1, seen, given, missing, len(made.open)))

    @app.post("/s/{token}/{number:int}")
    async def continued(token: str, number: int, request: Request) -> Response:
        """The form: what differs from what is known is one more judgement. Goes on where nothing of the item is open."""
        made, seen = await at(token, number)
        form, now = await form_of(request), time.time()
        asked = [
            (place, system, question)
            for place, system in enumerate(seen.order)
            for question in study.questions
        ]

        def write(connection) -> bool:
            """Whether the item has all its answers now, and with the last item the participant is done."""
            known = participants.answers(connection, made.participant).get(seen.item, {})
            for place, system, question in asked:
                value = form.get(f"{place}-{question}", "")
                if value in VALUES and known.get((system, question)) != int(value):
                    known[system, question] = int(value)
                    what = (seen.item, system, question, int(value), f"form-{secrets.token_hex(8)}", None)
                    participants.judge(connection, made.participant, *what, now=now)
            whole = len(known) == len(asked)
            if whole and number == len(made.shown):
                participants.complete(connection, study, made.participant, now)
            return whole

        if not await do(write):
            return RedirectResponse(f"{made.home}/{number}?missing=true#missing", 303, NO_STORE)
        if number < len(made.shown):
            return RedirectResponse(f"{made.home}/{number + 1}", 303, NO_STORE)
        return RedirectResponse((await visit(token, completed=True)).next, 303, NO_STORE)

    @app.post("/s/{token}/{number:int}/judge")
    async def judge(token: str, number: int, request: Request) -> Response:
        click = await body_of(request, Click)
        made, seen = await at(token, number)
        if click.reply >= len(seen.order):
            raise HTTPException(422)
        system, now = seen.order[click.reply], time.time()
        what = (seen.item, system, click.question, click.value, click.click, click.after_ms)
        await do(lambda c: participants.judge(c, made.participant, *what, now=now))
        return Response(status_code=204, headers=NO_STORE)

    @app.get("/s/{token}/{number:int}/answers")
    async def answers(token: str, number: int) -> Response:
        """What is known of the item, for a page that was in the background while another one was used."""
        made, seen = await at(token, number)
        given = made.given.get(seen.item, {})
        found = {
            f"{seen.order.index(system)}-{question}": value for (system, question), value in given.items()
        }
        return JSONResponse(found, headers=NO_STORE)

    @app.post("/s/{token}/{number:int}/event")
    async def event(token: str, number: int, request: Request) -> Response:
        told = await body_of(request, Event)
        made, seen = await at(token, number)
        if told.turn >= len(study.item(seen.item).turns):
            raise HTTPException(422)
        what = (seen.item, told.turn, told.kind, told.detail, time.time())
        await do(lambda c: participants.note(c, made.participant, *what))
        return Response(status_code=204, headers=NO_STORE)

    @app.get("/s/{token}/{number:int}/clip/{turn:int}")
    async def clip(token: str, number: int, turn: int) -> Response:
        _, seen = await at(token, number)
        turns = study.item(seen.item).turns
        name = turns[turn].clip if turn < len(turns) else None
        path = folder / "clips" / (name or "")
        if name is None or not path.is_file():
            raise HTTPException(404)
        return FileResponse(path, media_type="video/mp4", headers={"cache-control": "private, max-age=3600"})

    @app.get("/s/{token}/{number:int}/captions/{turn:int}")
    async def captions(token: str, number: int, turn: int) -> Response:
        _, seen = await at(token, number)
        turns = study.item(seen.item).turns
        if turn >= len(turns):
            raise HTTPException(404)
        return Response(pages.captions(turns[turn].text), media_type="text/vtt", headers=NO_STORE)

    return with_headers(app)


class Elsewhere(Exception):
    """This page is not what the participant is at."""

    def __init__(self, where: str):
        self.where = where


REFUSALS = {
    404: ("There is nothing here", "Please open the link that you were given, whole and as it was."),
    410: (
        "This place was given back",
        "It is no longer open. If you think that this is a mistake, write to who invited you.",
    ),
    413: ("This is too much", "No page of this study sends so much."),
    422: ("This did not work", "What was sent is no answer of this page. Please go back and try again."),
    429: ("This is too much", "More answers were sent than a person gives."),
}


def html(page: str, status: int = 200) -> Response:
    return HTMLResponse(page, status, NO_STORE)


async def _bounded(request: Request) -> bytes:
    """The request's body. 413 where it is larger than any of this study's."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            raise HTTPException(413)
    return bytes(body)


async def form_of(request: Request) -> dict[str, str]:
    """A form's fields, of each the last. 422 for what is none."""
    try:
        fields = parse_qs((await _bounded(request)).decode(), max_num_fields=200)
    except ValueError:
        raise HTTPException(422) from None
    return {name: values[-1] for name, values in fields.items()}


async def body_of(request: Request, kind: type[Sent]) -> Sent:
    try:
        return kind.model_validate_json(await _bounded(request), strict=True)
    except ValidationError:
        raise HTTPException(422) from None


def with_headers(app: ASGIApp) -> ASGIApp:
    """Every answer says what a browser may do with it. What a job refuses is an answer too."""
    extra = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        await app(scope, receive, sent if scope["type"] == "http" else send)

    return wrapped
