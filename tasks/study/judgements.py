"""A study's judgements as they leave it: who judged what how, without links, ids or times. One JSON file, made by `score`.

Knows nothing of servers or of what is computed from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field, ValidationError

from storage.errors import InputError
from storage.files import shown
from tasks.study.journal import read_from
from tasks.study.participants import Answers, answers, everybody, failed_checks
from tasks.study.study import CHECK, Study

NAME = "judgements.json"
MOST_BYTES = 256 << 20


class Row(NamedTuple):
    """One answer, the last where it was changed."""

    participant: int
    item: str
    system: str
    question: str
    value: int


class Judgements(BaseModel, frozen=True, extra="forbid"):
    """The file. compared: the system that the others are compared with. counted: the participants whose judgements count; counts: how many came, were done, and do not count, by why.

    keys: item -> dataset, split, dialogue and turn of its sentence. unplayable: clips that some browser could not play.
    """

    format: Literal[1] = 1
    title: str
    run: str
    systems: dict[str, str] = Field(min_length=1)
    compared: str
    questions: dict[str, str]
    scale: dict[int, str]
    keys: dict[str, tuple[str, str, str, int]]
    counted: tuple[int, ...]
    counts: dict[str, int]
    unplayable: dict[str, int] = {}
    rows: tuple[Row, ...]

    @property
    def datasets(self) -> dict[str, str]:
        """Item -> its dataset."""
        return {item: key[0] for item, key in self.keys.items()}

    def as_bytes(self) -> bytes:
        return self.model_dump_json().encode()  # systems and questions keep their order


def collect(folder: Path, study: Study, keep_inattentive: bool = False) -> Judgements:
    """What a study's folder holds by now. Returned places do not count, nor, unless asked for, whoever failed more than half
    of the attention checks; both are counted."""

    def read(connection):
        people = everybody(connection)
        told = "select item, turn, count(distinct participant) from events where kind = 'error' group by item, turn"
        return [(person, answers(connection, person)) for person in people], connection.execute(
            told
        ).fetchall()

    found, failed_clips = read_from(folder / "judgements.sqlite", read)
    came = [(person, given) for person, given in found if person.begun is not None or given]
    returned = [person for person, _ in came if person.released is not None]
    inattentive = [
        person for person, given in came if person.released is None and _inattentive(study, person, given)
    ]
    out = {person.id for person in returned} | (
        {p.id for p in inattentive} if not keep_inattentive else set()
    )
    counted = tuple(person.id for person, _ in came if person.id not in out)
    rows = [
        Row(person.id, item, system, question, value)
        for person, given in came
        for item, said in sorted(given.items())
        for (system, question), value in sorted(said.items())
        if system != CHECK
    ]
    return Judgements(
        title=study.title,
        run=study.run,
        systems=study.systems,
        compared=study.compared,
        questions=dict(study.questions),
        scale=study.scale,
        keys={item.id: item.key for item in study.items},
        counted=counted,
        counts={
            "places": len(study.places),
            "came": len(came),
            "done": sum(p.completed is not None and p.released is None for p, _ in came),
            "returned": len(returned),
            "inattentive": len(inattentive),
        },
        unplayable={f"{item}/{turn}": count for item, turn, count in failed_clips},
        rows=tuple(rows),
    )


def _inattentive(study: Study, person, given: dict[str, Answers]) -> bool:
    failed, answered = failed_checks(study, person, given)
    return 2 * failed > answered


def read_judgements(path: Path) -> Judgements:
    """InputError in one line where it cannot be read or is none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{shown(path)}: larger than any study's judgements")
        return Judgements.model_validate_json(path.read_bytes())
    except OSError as error:
        why = f"{shown(path)}: cannot be read ({error.strerror}): give the {NAME} that `empamba study score` wrote"
        raise InputError(why) from None
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, found["loc"])) or "all"
        raise InputError(
            f"{shown(path)}: {where}: {shown(str(found['msg']))}; `empamba study score` writes it"
        ) from None
