"""What is tried again: a server out of order, a broken connection; never what the input or the code is at fault for."""

import http.client

import httpx
import pytest

from storage.errors import InputError
from tasks.engine.passing import can_pass, tried


def answered(status: int) -> Exception:
    request = httpx.Request("GET", "http://hub/x")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, request=request))


def caused(error: Exception) -> Exception:
    """An error of ours that came of it."""
    try:
        raise error
    except Exception as cause:
        found = ValueError("weights cannot be had")
        found.__cause__ = cause
        return found


@pytest.mark.parametrize(
    "error, passing",
    [
        (answered(503), True), (answered(429), True), (answered(404), False), (answered(401), False),
        (httpx.ConnectError("refused"), True), (httpx.ReadTimeout("silent"), True),
        (ConnectionResetError(), True), (http.client.IncompleteRead(b""), True),
        (InputError("no such file"), False), (RuntimeError("loss is not finite"), False), (MemoryError(), False),
        (OSError(28, "No space left on device"), False),
    ],
)  # fmt: skip
def test_what_can_pass(error, passing):
    assert can_pass(error) is passing
    assert can_pass(caused(error)) is passing


def test_tries_are_further_and_further_apart_and_end():
    pauses, calls = [], []

    def fail():
        calls.append(len(calls))
        raise ConnectionError(str(len(calls)))

    with pytest.raises(ConnectionError, match="4"):
        tried(fail, 3, 10.0, can_pass, lambda seconds, error: pauses.append((seconds, str(error))))
    assert pauses == [(10.0, "1"), (20.0, "2"), (40.0, "3")]


def test_what_cannot_pass_is_tried_once_and_what_comes_right_is_kept():
    def wrong():
        raise InputError("no such file")

    with pytest.raises(InputError):
        tried(wrong, 3, 10.0, can_pass, lambda *_: pytest.fail("waited"))
    answers = iter([ConnectionError(), None])

    def second_time():
        error = next(answers)
        if error:
            raise error
        return "made"

    assert tried(second_time, 3, 0.0, can_pass, lambda *_: None) == "made"
