"""A study as it stands in its folder: what is asked, of which replies, and who judges what in which order.

    FOLDER/study.json         all of it, written once; without secrets, the same bytes from the same run and seed
    FOLDER/access.json        the participants' links and the completion code; readable by its owner alone
    FOLDER/clips/             the conversations' clips, as a browser plays them
    FOLDER/judgements.sqlite  what participants did (tasks/study/journal.py)

Knows nothing of runs, servers or scores.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from storage.errors import InputError
from storage.files import shown, write_atomic
from tasks.study.power import Power

Question = Literal["semantics", "empathy"]
QUESTIONS: dict[Question, str] = {
    "semantics": "How semantically appropriate is the sentence as a continuation of the conversation?",
    "empathy": "How well does this sentence evoke empathy with the final statement?",
}
"""Section 5.2, word for word."""
SCALE: dict[int, str] = {1: "bad", 2: "medium", 3: "good"}
"""Three points, and what each counts (section 5.2)."""
MOST_SYSTEMS = 6
"""Figure 10 shows six replies."""
CHECK = "attention-check"
"""Stands among the systems of an item where a reply is no system's but asks for a certain answer."""

FILMED = (
    "You will see short conversations between people. Each is a film, with what is said written beside it.",
    "Please watch the whole conversation up to its last statement, with the sound on. If a clip does not play, read what is "
    "said instead: we notice it, and you lose nothing.",
)
WRITTEN = (
    "You will read short conversations between people.",
    "Please read the whole conversation up to its last statement.",
)
"""Where no conversation has a clip."""
INSTRUCTIONS = (
    "Below the conversation are several replies to the last statement. Judge each by itself, not against the others: several may be "
    "good, and several may be bad.",
    "For each reply there are two questions, each answered with bad, medium or good. The first is about meaning: does the "
    "reply go on from what was said and make sense here? The second is about feeling: does the reply show that it "
    "understands how the speaker feels, and feel with them?",
    "There are no right or wrong answers: we want to know what you think. The replies stand in a random order, and who or "
    "what wrote them is not shown.",
    "Every answer is saved as you give it. You may leave and come back by the same link, in another browser too.",
)
"""Section 9 says that figure 9 holds guidelines and what is judged; the words are this project's."""

Kind = TypeVar("Kind", bound=BaseModel)


class _Part(BaseModel, frozen=True, extra="forbid"):
    pass


class Turn(_Part):
    """What one speaker says. clip: its file below clips/, None where there is none to show."""

    speaker: str
    text: str
    clip: str | None = Field(None, pattern=r"^i\d+/\d+\.mp4$")


class StudyItem(_Part):
    """A conversation up to a sentence, and the replies to it by system."""

    id: str = Field(pattern=r"^i\d+$")
    dataset: str
    split: str
    dialogue_id: str
    turn: int
    turns: tuple[Turn, ...] = Field(min_length=1, description="All before the sentence, and it.")
    reference: str
    sentence_emotion: str | None = None
    reference_emotion: str | None = None
    replies: dict[str, str]

    @property
    def key(self) -> tuple[str, str, str, int]:
        return (self.dataset, self.split, self.dialogue_id, self.turn)

    @property
    def sentence(self) -> str:
        return self.turns[-1].text


class Shown(_Part):
    """An item as one participant is shown it: the systems in the order of their replies.

    check: the value that the attention check among them asks for.
    """

    item: str
    order: tuple[str, ...]
    check: int | None = Field(None, ge=1, le=3)


class LeftOut(_Part):
    """A clip that cannot be shown, and why."""

    item: str
    turn: int
    reason: str


class Study(_Part):
    """The whole study. places: what each participant is shown, of so many participants."""

    format: Literal[1] = 1
    title: str
    instructions: tuple[str, ...]
    questions: dict[Question, str] = QUESTIONS
    scale: dict[int, str] = SCALE
    systems: dict[str, str] = Field(min_length=1, max_length=MOST_SYSTEMS, description="Name -> title.")
    compared: str = Field(description="The system that the others are compared with.")
    items: tuple[StudyItem, ...] = Field(min_length=1)
    places: tuple[tuple[Shown, ...], ...] = Field(min_length=1)
    prolific: bool = False
    return_after_h: float = Field(gt=0)
    power: Power
    of_pairs: bool = Field(False, description="Of train and dev: what people choose may train EPO.")
    clips_left_out: tuple[LeftOut, ...] = ()
    without_clip: int = Field(0, description="Utterances that have none.")
    run: str
    seed: int

    @model_validator(mode="after")
    def _what_is_shown_is_there(self) -> Self:
        items = {item.id: item for item in self.items}
        if self.compared not in self.systems:
            raise ValueError(f"{self.compared} is compared, and is none of the systems")
        for place in self.places:
            for seen in place:
                systems = set(seen.order) - {CHECK}
                if seen.item not in items or not systems <= items[seen.item].replies.keys():
                    raise ValueError(f"{seen.item} is shown, and it or a reply to it is not there")
                if (CHECK in seen.order) != (seen.check is not None):
                    raise ValueError(f"{seen.item}: an attention check without what it asks for")
        return self

    def item(self, name: str) -> StudyItem:
        return next(item for item in self.items if item.id == name)

    @property
    def each(self) -> int:
        """Conversations of each participant."""
        return len(self.places[0])


COMPLETION_URL = r"^https?://[^\s\"'<>]+$"
Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22,64}$")]


class Access(_Part):
    """What lets people in and is paid for. tokens: of the places' links, in order; none where Prolific sends people."""

    tokens: tuple[Token, ...] = ()
    completion_code: str = Field(min_length=1, max_length=100)
    completion_url: str | None = Field(None, pattern=COMPLETION_URL)


def write_study(folder: Path, study: Study, access: Access) -> None:
    """Both files; study.json last, as what makes the folder a study."""
    write_atomic(folder / "access.json", access.model_dump_json(indent=1).encode())
    os.chmod(folder / "access.json", 0o600)
    write_atomic(folder / "study.json", study.model_dump_json(indent=1).encode())


def read_study(folder: Path) -> Study:
    """InputError in one line where the folder holds none, or it was damaged."""
    return _read(folder / "study.json", Study)


def read_access(folder: Path) -> Access:
    return _read(folder / "access.json", Access)


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{shown(path)}: cannot be read ({error.strerror}): give the folder that `empamba study make` wrote"
        ) from None
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, found["loc"])) or "all"
        raise InputError(f"{shown(path)}: {where}: {shown(str(found['msg']))}; make the study anew") from None
