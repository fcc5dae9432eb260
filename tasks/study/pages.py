"""The participants' pages: templates filled with what one participant may see. Knows nothing of the network.

Systems are known to a page by the place of their reply alone. Texts come from outside: they are escaped, and what would act
on a page or turn its order is shown by a sign.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.study.participants import Answers
from tasks.study.study import CHECK, SCALE, Shown, Study

FOLDER = Path(__file__).with_name("pages")
STATIC = {"study.css": "text/css", "study.js": "text/javascript"}
"""What any browser is given."""
UNREADABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
"""Controls, and marks that turn the order of a line; joiners of scripts and emoji are text."""
ATTENTION = (
    "This is no reply but a check that the replies are being read. Please answer “{}” to both questions here."
)


@cache
def static(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["text"] = readable
    return environment


def readable(text: str) -> str:
    """The text with "\N{REPLACEMENT CHARACTER}" for what is none."""
    return UNREADABLE.sub("\N{REPLACEMENT CHARACTER}", text.encode("utf-8", "replace").decode("utf-8"))


def _page(name: str, **values) -> str:
    return _environment().get_template(name).render(**values)


def message(title: str, *lines: str) -> str:
    """A page that says something and asks for nothing."""
    return _page("message.html.j2", title=title, lines=lines)


def instructions(study: Study, token: str, begun: bool, wrong: bool = False) -> str:
    """Figure 9's page. wrong: the question on what was read was answered wrong."""
    return _page("instructions.html.j2", study=study, token=token, begun=begun, wrong=wrong, each=study.each)


def item(
    study: Study, token: str, number: int, shown: Shown, given: Answers, missing: bool, remaining: int
) -> str:
    """Figure 10's page. number: from 0; given: what was answered; missing: the form came back with answers missing."""
    found = study.item(shown.item)
    replies = [
        {
            "text": ATTENTION.format(SCALE[shown.check])
            if system == CHECK and shown.check
            else found.replies[system],
            "given": {question: given.get((system, question)) for question in study.questions},
        }
        for system in shown.order
    ]
    return _page(
        "item.html.j2",
        study=study,
        token=token,
        number=number,
        count=study.each,
        item=found,
        replies=replies,
        missing=missing,
        last=number + 1 == study.each,
        filmed=[place for place, turn in enumerate(found.turns) if turn.clip],
        remaining=remaining,
    )


def done(study: Study, token: str, code: str, url: str | None) -> str:
    return _page("done.html.j2", study=study, token=token, code=code, url=url)


def captions(text: str) -> str:
    """A clip's words as WebVTT, shown as long as it plays."""
    words = " ".join(readable(text).split())
    for sign, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        words = words.replace(sign, name)
    return f"WEBVTT\n\n00:00.000 --> 10:00.000\n{words}\n"
