"""Who is where in a study, and giving places back. Knows nothing of the network."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

from storage.errors import InputError
from tasks.study.journal import opened, read_from
from tasks.study.participants import Participant, answers, everybody, failed_checks, open_items, release
from tasks.study.study import Study, read_access, read_study

COLUMNS = ("place", "state", "judged", "of", "checks failed", "prolific", "link")


def place_rows(folder: Path, url: str) -> tuple[tuple[str, ...], list[dict]]:
    """Columns and rows, one for each place and for each participant who gave one back. url: what links begin with; "": none."""
    study, access = read_study(folder), read_access(folder)
    journal = folder / "judgements.sqlite"
    found = []
    if journal.is_file():
        found = read_from(journal, lambda c: [(person, answers(c, person)) for person in everybody(c)])
    there = {person.place: (person, given) for person, given in found if person.released is None}
    rows = []
    for place in range(len(study.places)):
        if place in there:
            rows.append(_row(study, *there[place], url))
        else:
            token = access.tokens[place] if access.tokens else None
            rows.append({"place": place + 1, "state": "free", "link": _link(url, token)})
    rows += [
        {**_row(study, p, given, ""), "state": "returned"} for p, given in found if p.released is not None
    ]
    return COLUMNS, rows


def _row(study: Study, person: Participant, given: dict, url: str) -> dict:
    still = len(open_items(study, person, given))
    failed, checks = failed_checks(study, person, given)
    state = "done" if person.completed else "begun" if person.begun else "came"
    return {
        "place": person.place + 1,
        "state": state,
        "judged": study.each - still,
        "of": study.each,
        "checks failed": f"{failed} of {checks}" if checks else None,
        "prolific": person.prolific,
        "link": _link(url, person.token),
    }


def _link(url: str, token: str | None) -> str | None:
    return f"{url.rstrip('/')}/s/{token}" if url and token else None


def give_back(folder: Path, who: str, url: str) -> str:
    """A line that says what was done. InputError where nobody of that name is at a place."""
    study, journal = read_study(folder), folder / "judgements.sqlite"
    if not journal.is_file():
        raise InputError(f"{folder}: nobody has come yet")
    with closing(opened(journal)) as connection:
        connection.execute("begin immediate")
        token = release(connection, who, time.time())
        connection.execute("commit")
    if token is None:
        raise InputError(
            f"nobody who is not done is at {who}: `empamba study status {folder}` lists the places"
        )
    if study.prolific:
        return f"the place of {who} is free for whom Prolific sends next"
    link = _link(url, token)
    return (
        f"place {who} is free; its new link: {link}"
        if link
        else f"place {who} is free; `status --url` shows its link"
    )
