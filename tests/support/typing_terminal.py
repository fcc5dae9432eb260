"""A command on a terminal of its own, typed to and read as a person does it."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.command_line import ROOT, environment
from tests.support.shell import STARTS_S, as_from_a_terminal

CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\r")


def _with_the_terminal() -> None:
    """In the new process: the terminal is its own, so that Ctrl-C reaches it as a signal."""
    as_from_a_terminal()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class TypingTerminal:
    """In `with`, so that the command ends with the test. shown: all that it printed, without what moves the cursor."""

    def __init__(self, folder: Path, command: Sequence[str]):
        self.shown, self._read_upto = "", 0
        self._begun = ""
        """Of an escape sequence, whose end has not come."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, start_new_session=True,
            env=environment(folder, 100) | {"TERM": "xterm-256color"}, preexec_fn=_with_the_terminal,
        )  # fmt: skip
        os.close(theirs)

    def __enter__(self) -> TypingTerminal:
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def types(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, pattern: str, seconds: float = STARTS_S) -> str:
        """What is shown from where the last call stopped to the end of the pattern's first place behind it."""
        deadline = time.monotonic() + seconds
        while (found := re.compile(pattern, re.DOTALL).search(self.shown, self._read_upto)) is None:
            assert time.monotonic() < deadline and self._read(), f"no {pattern!r}:\n{self.shown[-3000:]}"
        before, self._read_upto = self._read_upto, found.end()
        return self.shown[before : found.end()]

    def types_until(self, text: str, pattern: str, again_s: float = 10, times: int = 10) -> str:
        """As `until`; typed again where nothing came of it: a Ctrl-C between Python's prompt and its wait for a key is not heard."""
        for _ in range(times - 1):
            self.types(text)
            with suppress(AssertionError):
                return self.until(pattern, again_s)
        self.types(text)
        return self.until(pattern)

    def ends(self, seconds: float = 60) -> int:
        """Its exit code, once it has shown all."""
        while self._read():
            pass
        return self.process.wait(seconds)

    def _read(self) -> bool:
        """Takes what has come. False: the command has ended."""
        if not select.select([self._ours], [], [], 1)[0]:
            return True
        try:
            part = os.read(self._ours, 65536)
        except OSError:  # the other side has gone
            return False
        text = self._begun + self._decoder.decode(part)
        last = text.rfind("\x1b")
        whole = last < 0 or CONTROL.match(text, last) is not None
        text, self._begun = (text, "") if whole else (text[:last], text[last:])
        self.shown += CONTROL.sub("", text)
        return bool(part)
