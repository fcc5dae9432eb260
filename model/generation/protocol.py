"""What the engine process and its client say to each other: one JSON object per line.

Client to worker: `EngineSettings`, then any number of `{"requests": [...]}` and `{"identify": true}`; the end of input
ends the worker. Worker to client: `{"ready": {...}}`, then for each batch its rows `{"row": {...}}` as they finish and
`{"done": n}`; `{"identity": {...}}` where it is asked for; `{"error": "...", "whole": bool, "passing": bool}` before it gives up (whole: the line says all;
passing: another start may do without the error). Knows nothing of processes or of models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypedDict, get_args

from model.generation.settings import Sampling

FinishReason = Literal[
    "stop",
    "length",
    "too_long",
    "filtered",
    "thought",
    "tool_call",
    "garbled",
    "overlong",
    "malformed",
    "no_answer",
]

NO_REPLY: frozenset[FinishReason] = frozenset(get_args(FinishReason)) - {"stop", "length"}
"""Endings of what is no reply, whatever its text."""

MAY_DO_BETTER: frozenset[FinishReason] = frozenset({"too_long", "malformed", "no_answer"})
"""Of these, those that another window, or the server on another day, may answer."""


VARIES = "varies"
"""Stands for the answers of a server that answers one prompt in two ways at temperature 0."""


class ServerError(RuntimeError):
    """A server did not answer: one line that says all there is to say, with no secret in it."""


class Message(TypedDict):
    """One turn of a chat prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt. `key` comes back with the answer and has no influence on it; `seed` has.

    tokens: the prompt as token ids of the model's own tokenizer, where it is no chat's messages.
    """

    key: str
    messages: tuple[Message, ...]
    seed: int
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer.

    `finish_reason`: "stop" (the model ended its turn), "length" (it ran into max_new_tokens), "too_long"
    (prompt and answer do not fit max_model_len: nothing was generated, the text is empty), "filtered" (a server
    withheld its answer, or told it to be a refusal), one of reply.py's reasons why an answer is no reply, or
    "no_answer" (a server gave none to this prompt, try after try). Token counts include the chat template's and the
    end-of-turn token; 0 where a server does not tell them. tries: how often a server was asked.
    """

    key: str
    text: str
    finish_reason: FinishReason
    engine: str
    prompt_tokens: int
    new_tokens: int
    tries: int = 1


def request_seed(messages: Sequence[Message], sampling: Sampling, sample: int | None = None) -> int:
    """Seed of a row in [0, 2**63): a digest of what the model is shown and how it is sampled.

    sample: which one it is of several from one prompt. So it does not move with ids, order or batch, and rows that differ do not share their draws.
    """
    turns = [[message["role"], message["content"]] for message in messages]
    which = [] if sample is None else [sample]
    canonical = json.dumps([turns, sampling.model_dump(), *which], sort_keys=True, ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:8], "big") >> 1


def encode_requests(requests: Sequence[GenerationRequest]) -> str:
    """A batch as one line."""
    return json.dumps({"requests": [asdict(request) for request in requests]}) + "\n"


def encode_identify() -> str:
    """The question which model a server's name stands for, as one line."""
    return json.dumps({"identify": True}) + "\n"


def is_identify(line: str) -> bool:
    """Whether a line that the worker was sent is that question."""
    return "identify" in json.loads(line)


def decode_requests(line: str) -> list[GenerationRequest]:
    """The batch in a line that `encode_requests` wrote."""
    return [
        GenerationRequest(row["key"], tuple(row["messages"]), row["seed"], tuple(row["tokens"]))
        for row in json.loads(line)["requests"]
    ]


def encode_row(row: Generation) -> str:
    """A finished row as one line."""
    return json.dumps({"row": asdict(row)}) + "\n"
