"""An utterance as the models are given it: its words, and who of the dialogue said them.

What is compressed and reconstructed is the bare text, in pretraining, finetuning, use and measurement alike: a
compressor that learnt from bare text loses much of what it can give back when the text it is given begins with a role.
The role is given beside it: to the LLM by a vector of the compressor's, or by a tag where the history is text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Spoken(NamedTuple):
    """text: the bare utterance. role: the speaker's place by order of appearance, from 0; None: no dialogue's."""

    text: str
    role: int | None = None

    @property
    def line(self) -> str:
        """The text after its role tag, as in figure 11; bare where no role is known."""
        return self.text if self.role is None else f"{role_tag(self.role)}: {self.text}"


def alone(texts: Iterable[str]) -> list[tuple[Spoken]]:
    """Each text as a dialogue of its own that nobody is known to have said."""
    return [(Spoken(text),) for text in texts]


def role_tag(role: int) -> str:
    """The first speaker is "gpt" and the second "human", as in figure 11; then "human2", "human3", …"""
    if role == 0:
        return "gpt"
    return "human" if role == 1 else f"human{role}"
