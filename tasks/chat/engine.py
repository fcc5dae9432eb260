"""The one thread in which everything is computed: replies token by token, several at once, and jobs in between.

A job (reading a turn, recognising an emotion) is run between two tokens; a reply joins those under way as soon as there is
a place. Knows nothing of conversations or of who asks.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from torch import Tensor

from model.generation.settings import Sampling
from model.generation.streaming import Decoder, Row, readable
from tasks.chat.models import Models

MOST_AT_ONCE = 16
"""Replies of a rung under way at once; the others wait for a place."""
Made = TypeVar("Made")


class Gone(RuntimeError):
    """The engine has ended."""


def _gone() -> Models:
    raise Gone("the chat has ended")


@dataclass(eq=False)
class Reply:
    """A reply while it is made. on_text: called in the engine's thread with the text so far, whenever there is more.

    read: its tokens as text (tokenizer, tokens, whether it has ended). done: its text, in the end; or why there is none.
    """

    rung: str
    row: Row
    on_text: Callable[[str], None]
    read: Callable[[Any, Sequence[int], bool], str] = readable
    done: Future[str] = field(default_factory=Future)
    stopped: bool = False
    shown: str = ""

    @property
    def ended(self) -> str:
        """ "stop": it came to its end; "length": to the limit of tokens; "stopped": somebody stopped it."""
        return "stopped" if self.stopped else self.row.ended or "stop"

    def stop(self) -> None:
        """Let it end where it is. May be called from any thread."""
        self.stopped = True


class Engine:
    """Models in a thread of their own. A context manager: on leaving, what is under way is stopped."""

    def __init__(self, load: Callable[[], Models], most_at_once: int = MOST_AT_ONCE):
        """load: called in the engine's thread; what it raises is raised by whoever asks first."""
        self.most_at_once = most_at_once
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting: deque[Reply] = deque()
        self._going: dict[str, list[Reply]] = {}
        self._decoders: dict[str, Decoder] = {}
        self._ending, self._closed = threading.Event(), threading.Event()
        self._models: Callable[[], Models] = _gone
        self._thread = threading.Thread(target=self._work, args=(load,), name="engine", daemon=True)

    def call(self, function: Callable[[Models], Made]) -> Future[Made]:
        """What function(models) gives, computed between two tokens."""
        future: Future[Made] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(self._models()))
                except BaseException as error:
                    future.set_exception(error)

        self._put(job)
        return future

    def reply(
        self,
        rung: str,
        prompt: Tensor,
        sampling: Sampling,
        on_text: Callable[[str], None],
        read: Callable[[Any, Sequence[int], bool], str] = readable,
    ) -> Reply:
        """Begin a reply to a prompt, as `Conversation.prompt` makes it."""
        reply = Reply(rung, Row(prompt, sampling), on_text, read, stopped=self._ending.is_set())
        self._put(lambda: self._waiting.append(reply))
        return reply

    def stop_replies(self) -> None:
        """Let every reply end where it is, from now on also those that have yet to begin. May be called from any thread."""
        self._ending.set()

        def stop() -> None:
            for replies in (self._waiting, *self._going.values()):
                for reply in replies:
                    reply.stop()

        self._put(stop)

    def _put(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)
        if self._closed.is_set():  # nobody else will look any more
            self._refuse_the_rest()

    # In the thread ------------------------------------------------------------------------------------

    def _work(self, load: Callable[[], Models]) -> None:
        models = None
        try:
            models = load()
        except BaseException as error:
            failed = error

            def broken() -> Models:
                raise failed

            self._models = broken
        else:
            loaded = models
            self._models = lambda: loaded
        while self._take_jobs():
            self._admit()
            for rung, replies in self._going.items():
                if replies:
                    self._step(rung, replies)
        for replies in self._going.values():
            for reply in replies:
                reply.stop()
                self._end(reply)
        if models is not None:
            models.close()
        self._closed.set()
        self._refuse_the_rest()

    def _refuse_the_rest(self) -> None:
        """Whoever still waits is told that the engine has ended."""
        self._models = _gone
        with contextlib.suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job()
        while self._waiting:
            self._waiting.popleft().done.set_exception(Gone("the chat has ended"))

    def _take_jobs(self) -> bool:
        """Run what was asked for; waits for something where nothing is under way. False once it is closed."""
        busy = bool(self._waiting or any(self._going.values()))
        while True:
            try:
                job = self._jobs.get(block=not busy)
            except Empty:
                return True
            if job is None:
                return False
            job()
            busy = True

    def _admit(self) -> None:
        """Let replies join that have waited, as far as there are places."""
        for reply in list(self._waiting):
            going = self._going.setdefault(reply.rung, [])
            if len(going) >= self.most_at_once:
                continue
            self._waiting.remove(reply)
            going.append(reply)
            if reply.stopped:
                continue
            try:
                with self._models().rung(reply.rung):
                    self._decoder(reply.rung).join(reply.row)
            except BaseException as error:
                going.remove(reply)
                reply.done.set_exception(error)

    def _step(self, rung: str, replies: list[Reply]) -> None:
        """One more token of each, after what there is was told and who has ended has left."""
        decoder = self._decoder(rung)
        for reply in list(replies):
            if reply.stopped or reply.row.ended is not None:
                decoder.leave([reply.row] if reply.row in decoder.rows else [])
                replies.remove(reply)
                self._end(reply)
            else:
                self._tell(reply)
        if replies:
            try:
                with self._models().rung(rung):
                    decoder.step()
            except BaseException as error:
                decoder.leave(list(decoder.rows))
                for reply in replies:
                    reply.done.set_exception(error)
                replies.clear()

    def _decoder(self, rung: str) -> Decoder:
        if rung not in self._decoders:
            self._decoders[rung] = self._models().decoder(rung)
        return self._decoders[rung]

    def _tell(self, reply: Reply, ended: bool = False) -> str:
        text = reply.read(self._models().llm.tokenizer, reply.row.tokens, ended)
        if text != reply.shown:
            reply.shown = text
            reply.on_text(text)
        return text

    def _end(self, reply: Reply) -> None:
        reply.done.set_result(self._tell(reply, ended=True))

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.close()
