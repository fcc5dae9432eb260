"""What clients of OpenAI's protocol ask: the bodies of chat completions and of the older completions, and what they mean here.

A clip stands in the body itself, as base64: nothing is fetched and no file is opened. Knows nothing of models, of what is in
a clip, or of how they are answered.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from model.generation.settings import Sampling
from model.spoken import Spoken
from storage.errors import InputError
from tasks.chat.text import utterance
from tasks.terminal import size_text

MOST_CHARACTERS = 16_000
"""Of a message or a prompt: what a client asks may be a whole prompt."""
MOST_TOKENS = 4096
MOST_PROMPTS = 16
MOST_CLIP = 16 << 20
"""Bytes of a clip's file. It is held in memory, as base64 and as it is, where a page's upload goes to a file."""
CLIPS = {"input_audio": "data", "audio_url": "url", "video_url": "url"}
"""Kinds of parts that are clips, OpenAI's and those that other servers know -> the field that has the file."""
_DATA_URL = re.compile(r"data:(audio|video)/[\w.+-]{1,80}(;[\w.+=\", -]{1,80}){0,4};base64,", re.IGNORECASE)
"""A browser's recording names its codecs with a comma between them."""
UNUSED = ("tools", "functions", "logprobs", "stop", "logit_bias", "frequency_penalty", "presence_penalty")
"""Fields that would change an answer and that nothing here follows: refused where they ask for something."""


class Part(BaseModel, extra="allow"):
    """A part of a message: a text, or a clip, which lies under the name of its type."""

    type: str
    text: str = ""

    def file(self) -> bytes:
        """A clip's file. InputError where it is not given in the body itself, is too large, or is no base64."""
        field = CLIPS[self.type]
        given = (self.model_extra or {}).get(self.type)
        held = given.get(field) if isinstance(given, dict) else None
        if not isinstance(held, str) or not held:
            raise InputError(f"messages: {self.type}.{field} is to be a text that holds the clip's file")
        head = _DATA_URL.match(held)
        if head is None and (field == "url" or held[:5].lower() == "data:"):
            kind = "video" if self.type == "video_url" else "audio"
            raise InputError(
                f"messages: {self.type}.{field}: neither addresses nor files are opened here; give the clip itself, as "
                f"data:{kind}/…;base64,…"
            )
        return _decoded(held[head.end() :] if head else held, f"{self.type}.{field}")


def _decoded(text: str, name: str) -> bytes:
    """A file from its base64."""
    if len(text) > (MOST_CLIP + 2) // 3 * 4:
        raise InputError(
            f"messages: {name}: a clip has at most {size_text(MOST_CLIP)} here; cut or shrink it"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(
            f"messages: {name}: no base64; give the clip's file as base64, without line breaks"
        ) from None


class Message(BaseModel):
    """One turn. Further fields, such as a name, mean nothing here."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """InputError where it holds something that is neither text nor a clip."""
        if isinstance(self.content, list):
            other = next((part.type for part in self.content if part.type not in ("text", *CLIPS)), None)
            if other is not None:
                raise InputError(
                    f"messages: a part of type {other!r}; text and clips ({', '.join(CLIPS)}) are read here"
                )
            return "".join(part.text for part in self.content if part.type == "text")
        return self.content or ""

    @property
    def clips(self) -> list[Part]:
        return [part for part in self.content if part.type in CLIPS] if isinstance(self.content, list) else []


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
    """What is asked: who said what before, and the sentence, with the file of its clip where there is one.

    left_out: what table 6 has no place for, in words; "" where that is nothing. Of earlier turns it has what was said.
    """

    history: tuple[Spoken, ...]
    sentence: str
    clip: bytes | None
    left_out: str


def question(messages: Sequence[Message]) -> Question:
    """InputError where the last message is no user's, or one cannot be read."""
    said = [message for message in messages if message.role in ("user", "assistant")]
    if not said or said[-1].role != "user":
        raise InputError("messages: the last one must be the user's; that is the one that is answered")
    *before, last = said
    roles: dict[str, int] = {}
    history = []
    for message in said:
        # In the order of first appearance, as in a dialogue.
        role = roles.setdefault(message.role, len(roles))
        if message.text.strip() or message is last:
            history.append(Spoken(utterance(message.text, MOST_CHARACTERS)[0], role))
    if len(last.clips) > 1:
        raise InputError(
            f"messages: {len(last.clips)} clips in one turn; give one file that has both sound and picture"
        )
    counts = {
        "system messages": len(messages) - len(said),
        "clips of earlier turns": sum(len(message.clips) for message in before),
    }
    return Question(
        tuple(history[:-1]),
        history[-1].text,
        last.clips[0].file() if last.clips else None,
        ", ".join(f"{count} {what}" for what, count in counts.items() if count),
    )
