"""What clients of OpenAI's protocol ask: the bodies of chat completions and of the older completions, and what they mean here.

Knows nothing of models or of how they are answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from model.generation.settings import Sampling
from model.spoken import Spoken
from storage.errors import InputError
from tasks.chat.text import utterance

MOST_CHARACTERS = 16_000
"""Of a message or a prompt: what a client asks may be a whole prompt."""
MOST_TOKENS = 4096
MOST_PROMPTS = 16
UNUSED = ("tools", "functions", "logprobs", "stop", "logit_bias", "frequency_penalty", "presence_penalty")
"""Fields that would change an answer and that nothing here follows: refused where they ask for something."""


class Part(BaseModel):
    """A part of a message; text alone is read."""

    type: str
    text: str = ""


class Message(BaseModel):
    """One turn. Further fields, such as a name, mean nothing here."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """InputError where it holds something that is no text."""
        if isinstance(self.content, list):
            other = next((part.type for part in self.content if part.type != "text"), None)
            if other is not None:
                raise InputError(f"messages: a part of type {other!r}; text alone is read here")
            return "".join(part.text for part in self.content)
        return self.content or ""


class Asked(BaseModel, extra="allow"):
    """What both have. Fields that are unknown here are passed over, as servers do."""

    refused: ClassVar[tuple[str, ...]] = UNUSED
    model: str = ""
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    n: Literal[1] | None = None
    stream: bool | None = False
    stream_options: dict | None = None

    @property
    def usage_in_stream(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))

    def check(self) -> None:
        """InputError where a field asks for what nothing here follows."""
        extra = self.model_extra or {}
        unused = next((name for name in self.refused if extra.get(name)), None)
        if unused is not None:
            raise InputError(f"{unused}: not followed here; leave it out")

    def sampling(self, most: int) -> Sampling:
        """Greedy where no temperature is asked for, as the rungs' replies are. most: tokens, where no limit is asked for."""
        return Sampling(
            temperature=self.temperature or 0.0,
            top_p=self.top_p or 1.0,
            max_new_tokens=self.max_tokens or most,
            seed=self.seed or 0,
        )


class AskedReply(Asked):
    """The body of a chat completion."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=100_000)]
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)

    def sampling(self, most: int) -> Sampling:
        return super().sampling(self.max_completion_tokens or most)


class AskedText(Asked):
    """The body of a completion: texts that are to be gone on with, as they are."""

    refused: ClassVar[tuple[str, ...]] = (*UNUSED, "echo", "suffix")
    prompt: tuple[str, ...]
    best_of: Literal[1] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _texts(cls, prompt: object) -> tuple[str, ...]:
        texts = (prompt,) if isinstance(prompt, str) else tuple(prompt) if isinstance(prompt, list) else ()
        if not 1 <= len(texts) <= MOST_PROMPTS or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"a text, or a list of at most {MOST_PROMPTS} texts; token ids are not read here"
            )
        if not all(texts):
            raise ValueError("it is empty; there is nothing to go on from")
        longest = max(map(len, texts))
        if longest > MOST_CHARACTERS:
            raise ValueError(f"{longest:,} characters; at most {MOST_CHARACTERS:,} are read")
        return texts


@dataclass(frozen=True)
class Question:
    """What is asked: who said what before, and the sentence. left_out: system messages, for which table 6 has no place."""

    history: tuple[Spoken, ...]
    sentence: str
    left_out: int


def question(messages: Sequence[Message]) -> Question:
    """InputError where the last message is no user's, or one cannot be read."""
    said = [message for message in messages if message.role in ("user", "assistant")]
    if not said or said[-1].role != "user":
        raise InputError("messages: the last one must be the user's; that is the one that is answered")
    roles: dict[str, int] = {}
    history = []
    for message in said:
        # In the order of first appearance, as in a dialogue.
        role = roles.setdefault(message.role, len(roles))
        if message.text.strip() or message is said[-1]:
            history.append(Spoken(utterance(message.text, MOST_CHARACTERS)[0], role))
    return Question(tuple(history[:-1]), history[-1].text, len(messages) - len(said))
