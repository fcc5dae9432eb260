"""A judge of replies: what it is asked of two of them, how its answer is read, and what both orders say together.

Two questions, as the paper's human study has two (empathy, and how a reply fits in meaning; section 5.2). The wording is this
project's. A judge favours a place in the prompt: every pair is shown in both orders, and counts where they agree.
Knows nothing of servers or systems.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Question = Literal["empathy", "fit"]
QUESTIONS: tuple[Question, ...] = ("empathy", "fit")
Winner = Literal["first", "second", "tie"]

INSTRUCTION = (
    "Two replies to the last sentence of a conversation are shown. Compare them by two questions.\n"
    "empathy: which reply shows more understanding of how the speaker feels?\n"
    "fit: which reply fits better with what was said?\n"
    "Answer each with A, B or tie, in two lines and nothing else:\n"
    "empathy: …\n"
    "fit: …"
)

_LINES = {
    question: re.compile(rf"^\W*{question}\W+(?:reply )?(A|B|tie)\W*$", re.IGNORECASE | re.MULTILINE)
    for question in QUESTIONS
}


def judge_prompt(history: Sequence[str], sentence: str, a: str, b: str) -> str:
    """What the judge is shown: the history's role-tagged lines, the sentence, and the replies, a line each."""
    lines = [INSTRUCTION, "", *(f"history: {_line(said)}" for said in history)]
    return "\n".join([*lines, f"sentence: {_line(sentence)}", f"reply A: {_line(a)}", f"reply B: {_line(b)}"])


def _line(text: str) -> str:
    return " ".join(text.split())


def read_judgement(text: str) -> dict[Question, str] | None:
    """ "A", "B" or "tie" by question; None where the answer does not say one of them for each."""
    found: dict[Question, str] = {}
    for question in QUESTIONS:
        said = {answer.upper() for answer in _LINES[question].findall(text)}
        if len(said) != 1:
            return None
        found[question] = said.pop().replace("TIE", "tie")
    return found


def both_orders(straight: dict[Question, str], turned: dict[Question, str]) -> dict[Question, Winner | None]:
    """Who wins each question; None where the orders disagree.

    straight: the first system's reply was A; turned: it was B.
    """
    as_a: dict[str, Winner] = {"A": "first", "B": "second", "tie": "tie"}
    as_b: dict[str, Winner] = {"A": "second", "B": "first", "tie": "tie"}
    return {
        question: as_a[straight[question]] if as_a[straight[question]] == as_b[turned[question]] else None
        for question in QUESTIONS
    }
