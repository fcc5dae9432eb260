"""Replies in OpenAI's words: of a chat completion, and of the older completion, whole or as server-sent events.

Knows nothing of what was asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

from tasks.chat.engine import Reply

Texts = asyncio.Queue[tuple[int, str]]
"""Of which reply, counted from 0, and its text so far."""


class ChatAnswer:
    """Of one request. prompt_tokens: of all its prompts."""

    id, whole_object, part_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, rung: str, fingerprint: str, prompt_tokens: int):
        self.prompt_tokens = prompt_tokens
        self.head = {
            "id": f"{self.id}-{uuid4().hex}",
            "created": int(time.time()),
            "model": rung,
            "system_fingerprint": fingerprint,
        }

    def whole(self, replies: Sequence[Reply]) -> dict:
        """Of replies that have ended."""
        choices = [
            self._choice(n, self._said(reply.done.result()), _ending(reply))
            for n, reply in enumerate(replies)
        ]
        return {**self.head, "object": self.whole_object, "choices": choices, "usage": self._usage(replies)}

    async def streamed(self, replies: Sequence[Reply], texts: Texts, usage: bool) -> AsyncIterator[str]:
        """A client that goes stops the replies."""
        try:
            for n, choice in enumerate(self._opening(replies)):
                yield self._part(n, choice)
            done = asyncio.gather(*(asyncio.wrap_future(reply.done) for reply in replies))
            told = [""] * len(replies)
            while not (done.done() and texts.empty()):
                more = asyncio.ensure_future(texts.get())
                either: list[asyncio.Future[Any]] = [more, done]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not more.done():
                    more.cancel()
                    continue
                n, text = more.result()
                yield self._part(n, self._more(text[len(told[n]) :]))
                told[n] = text
            await done
            for n, reply in enumerate(replies):
                yield self._part(n, self._more(""), _ending(reply))
            if usage:
                yield self._event({"choices": [], "usage": self._usage(replies)})
            yield "data: [DONE]\n\n"
        finally:
            for reply in replies:
                reply.stop()

    def _said(self, text: str) -> dict:
        """A whole reply, as a choice has it."""
        return {"message": {"role": "assistant", "content": text}}

    def _more(self, text: str) -> dict:
        """More of a reply, as a choice has it; "": nothing more."""
        return {"delta": {"content": text} if text else {}}

    def _opening(self, replies: Sequence[Reply]) -> list[dict]:
        """What comes before any text, of each."""
        return [{"delta": {"role": "assistant", "content": ""}} for _ in replies]

    def _choice(self, n: int, said: dict, ending: str | None) -> dict:
        return {"index": n, **said, "finish_reason": ending, "logprobs": None}

    def _part(self, n: int, said: dict, ending: str | None = None) -> str:
        return self._event({"choices": [self._choice(n, said, ending)]})

    def _event(self, more: dict) -> str:
        return f"data: {json.dumps({**self.head, 'object': self.part_object, **more})}\n\n"

    def _usage(self, replies: Sequence[Reply]) -> dict:
        new = sum(len(reply.row.tokens) for reply in replies)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self.prompt_tokens + new,
        }


class TextAnswer(ChatAnswer):
    """Of a completion: one choice for each of its prompts."""

    id, whole_object, part_object = "cmpl", "text_completion", "text_completion"

    def _said(self, text: str) -> dict:
        return {"text": text}

    def _more(self, text: str) -> dict:
        return {"text": text}

    def _opening(self, replies: Sequence[Reply]) -> list[dict]:
        return []


def _ending(reply: Reply) -> str:
    return "length" if reply.ended == "length" else "stop"
