"""Failures that can pass by themselves: a hub or a server that is out of order for now, a connection that broke off.

What the input, the code or the machine is at fault for comes again however often it is tried. Knows nothing of stages.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

Made = TypeVar("Made")

STATUSES = (408, 425, 429, 500, 502, 503, 504, 529)
"""HTTP statuses of a server that is not up to it just now."""


def can_pass(error: BaseException) -> bool:
    """Whether the error, or what it came of, is such an answer of a server's, or a connection that failed."""
    chain = list(_chain(error))
    answers = (getattr(link, "response", None) for link in chain)
    status = next((getattr(answer, "status_code", None) for answer in answers if answer is not None), None)
    return status in STATUSES if status is not None else any(map(_is_of_the_connection, chain))


def tried(
    make: Callable[[], Made],
    retries: int,
    after_s: float,
    passes: Callable[[Exception], bool],
    pause: Callable[[float, Exception], None],
) -> Made:
    """What `make` gives, after as many as `retries` further tries where its error passes; the last error otherwise.

    pause(seconds, error): waits that long, after_s the first time and twice as long each time; it may raise.
    """
    for number in range(retries):
        try:
            return make()
        except Exception as error:
            if not passes(error):
                raise
            pause(after_s * 2**number, error)
    return make()


def _is_of_the_connection(error: BaseException) -> bool:
    # One whose module was never imported cannot be its error.
    httpx = sys.modules.get("httpx")
    kinds: tuple[type[BaseException], ...] = (ConnectionError, TimeoutError, http.client.IncompleteRead)
    return isinstance(error, kinds if httpx is None else (*kinds, httpx.TransportError))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
