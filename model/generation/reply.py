"""What a model answered, as a text that a person could have said, or the reason why it is none.

The one place where an answer is read, whichever engine gave it: thoughts are taken out, and an answer that is a cut
thought, a tool call, a refusal, garbled or no message at all is named as that. Judges form only, of one answer by
itself; whether it is a reply to its sentence is the candidates' matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from model.generation.protocol import FinishReason

LONGEST_REPLY = 4096
"""Characters. Nobody says as much in one turn, and what reads a reply further on may take long over a longer one."""

_ENDINGS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "content_filter": "filtered",
    "safety": "filtered",
    "refusal": "filtered",
    "tool_calls": "tool_call",
    "function_call": "tool_call",
    "tool_use": "tool_call",
}
"""What servers call an ending (OpenAI's own words, and those of TGI, Mistral, Anthropic and Google) -> what it is."""

_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>|\[(/?)THINK\]", re.IGNORECASE)

_UNSEEN = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u2060\ufeff]")
"""Marks that are not seen and mean nothing here: soft hyphens, direction marks, zero-width spaces."""

_GARBLED = re.compile(
    # Controls but for white space, overriding directions, surrogates, private characters, annotations, what stands
    # for a broken character, and noncharacters; then tokens of a chat template that came out as text.
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u206f\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufff0-\uffff"
    "\U000f0000-\U0010ffff]"
    r"|<\|[A-Za-z_]{1,40}\|>"
)

_BROKEN = "\ufffd"


@dataclass(frozen=True, slots=True)
class Reply:
    """The text without thoughts and odd characters, and how it ended; a NO_REPLY ending says why it is not one."""

    text: str
    finish_reason: FinishReason


def reply_of(message: object, ending: object = "stop") -> Reply:
    """Read one answer: a text, or the message of a chat completion (content as text or as a list of parts).

    ending: the server's own word for how it ended. One that is unknown or absent is taken as "length": whether the
    text is whole is not known. Never raises, whatever it is given.
    """
    if isinstance(message, str):
        message = {"content": message}
    if not isinstance(message, Mapping):
        return Reply("", "malformed")
    reason = _ENDINGS.get(ending.lower(), "length") if isinstance(ending, str) else "length"
    text, refusal = _content(message.get("content"))
    if text is None:
        return Reply("", "malformed")
    refusal = refusal or _text(message.get("refusal"))
    if reason == "filtered" or (refusal and not text.strip()):
        return Reply(_readable(text.strip() or refusal)[:LONGEST_REPLY], "filtered")
    if reason == "tool_call" or message.get("tool_calls") or message.get("function_call"):
        return Reply("", "tool_call")
    said, thought = _without_thoughts(text)
    apart = any(_text(message.get(name)).strip() for name in ("reasoning_content", "reasoning"))
    if said is None or ((thought or apart) and not said.strip()):
        return Reply("", "thought")
    return _judged(said, reason)


def _judged(text: str, reason: FinishReason) -> Reply:
    """A text without thoughts; the limit may have cut it inside a character."""
    text = _UNSEEN.sub("", text.rstrip(_BROKEN) if reason == "length" else text)
    readable = _readable(text)
    if len(text) > LONGEST_REPLY:
        return Reply(readable[:LONGEST_REPLY], "overlong")
    return Reply(readable, reason if readable == text else "garbled")


def _content(content: object) -> tuple[str | None, str]:
    """(text, refusal) of a message's content; None where it is neither text nor parts that hold any."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, (list, tuple)):
        return None, ""
    parts = [part for part in content if isinstance(part, Mapping)]
    text = "".join(
        _text(part.get("text")) for part in parts if part.get("type") in ("text", "output_text", None)
    )
    refusal = "".join(_text(part.get("refusal")) for part in parts)
    text += "".join(part for part in content if isinstance(part, str))
    return (text if text or refusal or not content else None), refusal


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _without_thoughts(text: str) -> tuple[str | None, bool]:
    """(what is said besides thoughts, whether there was one); None where the last thought never ends.

    A template may have opened the thought already: then all before its end is one.
    """
    kept, start, inside, found = [], 0, False, False
    for tag in _THOUGHT.finditer(text):
        found = True
        if tag[1] or tag[2]:
            kept = kept if inside else []
            start, inside = tag.end(), False
        elif not inside:
            kept.append(text[start : tag.start()])
            inside = True
    return (None, True) if inside else ("".join([*kept, text[start:]]), found)


def _readable(text: str) -> str:
    """Without what a terminal, a page or a file must not be given."""
    return _GARBLED.sub("", _UNSEEN.sub("", text))
