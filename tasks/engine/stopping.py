"""Stopping a run: who asks for it, what is called then, and when the process ends at the latest.

A signal is handled once: the open sessions are asked to stop, and what the main thread was doing ends with
`Interrupted`. What still works after PATIENCE_S is left behind, as a kill would leave it: the store goes on from
there. Knows nothing of Prefect, of stages or of what is printed.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_S = 9.0
"""From a signal to the end of the process, whatever still works."""
NOTIFY_S = 1.5
"""The last of it, in which whoever believes that the cut-off work still runs is notified."""
LOST_PATIENCE_S = 2.0
"""The same where the orchestrator is gone: nobody is left to notify, only workers to end."""


class Stopped(RuntimeError):
    """Work that is not done since its run is stopping; the message says why."""


class Interrupted(BaseException):
    """A signal has come. Raised once, in the main thread."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Stop:
    """Stops everything that works for a run, once. Used from several threads."""

    def __init__(self) -> None:
        self.why: str | None = None
        self._callbacks: list[Callable[[str], None]] = []
        self._guard = threading.RLock()
        self._requested = threading.Event()

    def on_stop(self, callback: Callable[[str], None]) -> None:
        """`callback` is called with the reason when a stop is asked for, or now if one was."""
        with self._guard:
            self._callbacks.append(callback)
        if self.why is not None:
            callback(self.why)

    def request(self, why: str) -> None:
        """Ask everybody to stop. Returns at once, so that a signal's handler may call it; a second call does nothing."""
        with self._guard:
            if self.why is not None:
                return
            self.why = why
            callbacks = list(self._callbacks)
        self._requested.set()
        threading.Thread(
            target=lambda: [callback(why) for callback in callbacks], name="stopping", daemon=True
        ).start()

    def check(self) -> None:
        """Raises Stopped once a stop was asked for."""
        if self.why is not None:
            raise Stopped(self.why)

    def wait(self, seconds: float) -> None:
        """Wait that long. Raises Stopped as soon as a stop was asked for."""
        self._requested.wait(seconds)
        self.check()


_open: set[Stop] = set()
_to_notify: set[Callable[[str], None]] = set()
_handler: SignalHandler | None = None


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """Within the block signals ask `stop` too."""
    _open.add(stop)
    try:
        yield
    finally:
        _open.discard(stop)


@contextmanager
def notified_at_exit(notify: Callable[[str], None]) -> Iterator[None]:
    """Within the block notify(why) is called where the process is ended before the block has."""
    _to_notify.add(notify)
    try:
        yield
    finally:
        _to_notify.discard(notify)


class SignalHandler:
    """How a process handles its signals. code: its exit status once it is ending, else None; why: what ended it.

    last_words(why) is called before a process that has not ended in time is ended.
    """

    def __init__(self, last_words: Callable[[str], None]):
        self.code: int | None = None
        self.why = ""
        self._last_words = last_words

    def on_signal(self, number: int, _frame) -> None:
        """The handler. A second signal changes nothing: the first is being followed, and its time is limited."""
        interrupted = Interrupted(number)
        if self.end(str(interrupted), 128 + number, PATIENCE_S, NOTIFY_S):
            raise interrupted

    def end(self, why: str, code: int, patience_s: float, notify_s: float = 0.0) -> bool:
        """Ask every open session to stop, and end the process after `patience_s`, in the last `notify_s` of which
        what is cut off is reported. False where it is ending already."""
        if self.code is not None:
            return False
        self.code, self.why = code, why
        threading.Thread(
            target=self._end_at_last, args=(code, patience_s, notify_s), name="at last", daemon=True
        ).start()
        stop_all(why)
        return True

    def _end_at_last(self, code: int, patience_s: float, notify_s: float) -> None:
        threading.Event().wait(max(0.0, patience_s - notify_s))
        if notify_s:
            notifying = [
                threading.Thread(target=notify, args=(self.why,), daemon=True) for notify in tuple(_to_notify)
            ]
            for thread in notifying:
                thread.start()
            until = time.monotonic() + notify_s
            for thread in notifying:
                thread.join(max(0.0, until - time.monotonic()))
        self._last_words(self.why)
        os._exit(code)


def stop_all(why: str) -> None:
    """Ask every open session of this process to stop."""
    for stop in tuple(_open):
        stop.request(why)


@contextmanager
def handling_signals(last_words: Callable[[str], None]) -> Iterator[SignalHandler]:
    """Handle this process's signals within the block. A signal that is ignored, as under nohup, stays ignored."""
    global _handler
    _handler = SignalHandler(last_words)
    try:
        with with_our_signal_handlers():
            yield _handler
    finally:
        if _handler.code is None:
            _handler = None


@contextmanager
def with_our_signal_handlers() -> Iterator[None]:
    """Take the signals back from a library that has put its own handlers in place; elsewhere nothing."""
    if _handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in HANDLED}
    mine = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, _handler.on_signal)
    try:
        yield
    finally:
        # A process that is ending must not be ended again on its last steps.
        if _handler is None or _handler.code is None:
            for number in mine:
                signal.signal(number, before[number])


def end_in_time(why: str, code: int) -> None:
    """For a process that is there for one run: everything stops, and PATIENCE_S later the process ends, whatever still works
    or waits for a server that is slow to answer."""
    if _handler is None:  # a command has its own, which a signal has called
        SignalHandler(lambda _: None).end(why, code, PATIENCE_S, NOTIFY_S)


def orchestrator_lost(why: str) -> None:
    """The run's orchestrator is gone: everything stops, and a process that handles signals ends with status 1."""
    if _handler is None or not _handler.end(why, 1, LOST_PATIENCE_S):
        stop_all(why)
