"""Participants and their answers, as rows of the journal: places taken and given back, judgements, what is still open.

Every function is a job of the journal's: it is given the connection. Time is the server's alone. Knows nothing of pages.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.study.study import CHECK, Study

MOST_EVENTS = 2000
"""Of one participant; further ones are not kept."""
MOST_JUDGEMENTS = 20_000
"""Of one participant, changed answers counted: a person gives some hundred."""

COLUMNS = "id, token, place, prolific, study, session, seen, begun, completed, released, dismissed"


@dataclass(frozen=True)
class Participant:
    """One person at a place. Times in seconds since 1970, None for what has not happened.

    dismissed: 1 where the researcher gave the place back, and no time-out did.
    """

    id: int
    token: str
    place: int
    prolific: str | None
    study: str | None
    session: str | None
    seen: float
    begun: float | None
    completed: float | None
    released: float | None
    dismissed: int


class NoPlace(Exception):
    """Every place is taken."""


class AlreadyHere(Exception):
    """This Prolific participant is here already, by another session."""


class Dismissed(Exception):
    """The researcher gave this session's place back."""


class TooMany(Exception):
    """More than a person would send."""


Answers = dict[tuple[str, str], int]
"""(system, question) -> value"""


def by_token(connection: sqlite3.Connection, token: str) -> Participant | None:
    return _one(connection, "token = ?", token)


def _one(connection: sqlite3.Connection, condition: str, *values: object) -> Participant | None:
    query = f"select {COLUMNS} from participants where {condition} order by id desc limit 1"
    row = connection.execute(query, values).fetchone()
    return None if row is None else Participant(*row)


def invited(
    connection: sqlite3.Connection, tokens: Sequence[str], token: str, now: float
) -> Participant | None:
    """Who comes by a link of the study's own; None where there is no such link."""
    found = by_token(connection, token)
    if found is None and token in tokens:
        place = tokens.index(token)
        connection.execute(
            "insert into participants (token, place, seen) values (?, ?, ?)", (token, place, now)
        )
        found = by_token(connection, token)
    return found


def sent_by_prolific(
    connection: sqlite3.Connection, study: Study, prolific: str, study_id: str, session: str, now: float
) -> Participant:
    """Who comes by the entry link: at the place taken before by this session, else at a free one.

    Places without an answer for longer than the study says are given back first, where none is free. NoPlace, AlreadyHere; Dismissed: only a
    new session of Prolific's begins anew.
    """
    found = _one(connection, "prolific = ? and session = ?", prolific, session)
    if found is not None and found.dismissed:
        raise Dismissed
    if (
        found is not None and found.released is not None
    ):  # who was away for long goes on, if the place is still there
        connection.execute(
            "update or ignore participants set released = null, seen = ? where id = ?", (now, found.id)
        )
        found = by_token(connection, found.token)
    if found is not None and found.released is None:
        return found
    if _one(connection, "prolific = ? and released is null", prolific) is not None:
        raise AlreadyHere
    place = _free(connection, study)
    if place is None:
        before = now - 3600 * study.return_after_h
        connection.execute(
            "update participants set released = ? where released is null and completed is null and seen < ?",
            (now, before),
        )
        place = _free(connection, study)
    if place is None:
        raise NoPlace
    token = secrets.token_urlsafe(18)
    connection.execute(
        "insert into participants (token, place, prolific, study, session, seen) values (?, ?, ?, ?, ?, ?)",
        (token, place, prolific, study_id, session, now),
    )
    found = by_token(connection, token)
    assert found is not None, "it was just written"
    return found


def _free(connection: sqlite3.Connection, study: Study) -> int | None:
    query = "select place from participants where released is null"
    taken = {place for (place,) in connection.execute(query)}
    return next((place for place in range(len(study.places)) if place not in taken), None)


def release(connection: sqlite3.Connection, who: str, now: float) -> str | None:
    """Give back the place of a Prolific id or of a place's number, not completed; returns the new link's token.

    None where nobody is there. Judgements stay, and are counted by nobody. Someone whom Prolific sends takes the place
    anew, and not the session that it was taken from; the holder of the token comes by a link.
    """
    condition = "place = ?" if who.isdigit() else "prolific = ?"
    value: object = int(who) - 1 if who.isdigit() else who
    found = _one(connection, f"{condition} and released is null and completed is null", value)
    if found is None:
        return None
    connection.execute("update participants set released = ?, dismissed = 1 where id = ?", (now, found.id))
    token = secrets.token_urlsafe(18)
    if found.prolific is None:
        connection.execute(
            "insert into participants (token, place, seen) values (?, ?, ?)", (token, found.place, now)
        )
    return token


def begin(connection: sqlite3.Connection, participant: Participant, now: float) -> None:
    connection.execute(
        "update participants set begun = coalesce(begun, ?), seen = ? where id = ?",
        (now, now, participant.id),
    )


def judge(
    connection: sqlite3.Connection,
    participant: Participant,
    item: str,
    system: str,
    question: str,
    value: int,
    click: str,
    after_ms: int | None,
    now: float,
) -> None:
    """One click. The same click again changes nothing. TooMany."""
    (count,) = connection.execute(
        "select count(*) from judgements where participant = ?", (participant.id,)
    ).fetchone()
    if count >= MOST_JUDGEMENTS:
        raise TooMany
    connection.execute(
        "insert or ignore into judgements (participant, item, system, question, value, click, after_ms, at) "
        "values (?, ?, ?, ?, ?, ?, ?, ?)",
        (participant.id, item, system, question, value, click, after_ms, now),
    )
    connection.execute("update participants set seen = ? where id = ?", (now, participant.id))


def note(
    connection: sqlite3.Connection,
    participant: Participant,
    item: str | None,
    turn: int | None,
    kind: str,
    detail: str,
    now: float,
) -> None:
    """Something that happened: a clip was played to its end, or cannot be."""
    query = "select count(*) from events where participant = ?"
    (count,) = connection.execute(query, (participant.id,)).fetchone()
    if count < MOST_EVENTS:
        connection.execute(
            "insert into events (participant, item, turn, kind, detail, at) values (?, ?, ?, ?, ?, ?)",
            (participant.id, item, turn, kind, detail, now),
        )


def answers(connection: sqlite3.Connection, participant: Participant) -> dict[str, Answers]:
    """Item -> what was answered; of an answer that was changed the last that came."""
    found: dict[str, Answers] = {}
    query = "select item, system, question, value from judgements where participant = ? order by id"
    for item, system, question, value in connection.execute(query, (participant.id,)):
        found.setdefault(item, {})[system, question] = value
    return found


def open_items(study: Study, participant: Participant, given: dict[str, Answers]) -> list[int]:
    """Numbers, from 0, of the participant's items that lack an answer."""
    asked = len(study.questions)
    return [
        number
        for number, seen in enumerate(study.places[participant.place])
        if len(given.get(seen.item, {})) < asked * len(seen.order)
    ]


def complete(connection: sqlite3.Connection, study: Study, participant: Participant, now: float) -> bool:
    """Whether nothing is open, and so the participant is done, which is written down."""
    if open_items(study, participant, answers(connection, participant)):
        return False
    connection.execute(
        "update participants set completed = coalesce(completed, ?), seen = ? where id = ?",
        (now, now, participant.id),
    )
    return True


def everybody(connection: sqlite3.Connection) -> list[Participant]:
    query = f"select {COLUMNS} from participants order by id"
    return [Participant(*row) for row in connection.execute(query)]


def failed_checks(study: Study, participant: Participant, given: dict[str, Answers]) -> tuple[int, int]:
    """Of the attention checks that were answered, how many otherwise than asked, and how many there were."""
    failed = answered = 0
    for seen in study.places[participant.place]:
        said = [v for (system, _), v in given.get(seen.item, {}).items() if system == CHECK]
        answered += bool(said)
        failed += any(value != seen.check for value in said)
    return failed, answered
