"""Child processes that decode, so that a file which hangs or kills a decoder costs its own clip and no more.

Answers come in the order of the requests, and only a few requests are ahead of the reader at any time, so
memory does not grow with their number. Knows nothing of why a clip is wanted.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from storage.child_process import how_it_ended, pipes
from storage.media.clip import Clip, Request
from storage.media.container import MediaError
from storage.media.decoder_process import answer_bytes, decode_answer, encode_request

MEMORY_BYTES = 4 << 30
CHUNK = 1 << 20
START_S = 120.0
"""A process that has not started by then is taken for dead. Not counted as a clip's time: starting is slow on a busy
machine.
"""
AHEAD = 4
"""Requests in work or waiting for the reader, for each process: while one decodes a long clip, others go on."""


class DecoderPool:
    """`processes` children, started when first needed. A context manager: on leaving they are ended.

    timeout_s: what takes longer is killed. memory_bytes: the address space each child may have.
    """

    def __init__(self, processes: int = 1, timeout_s: float = 120.0, memory_bytes: int = MEMORY_BYTES):
        self.processes, self.timeout_s, self.memory_bytes = processes, timeout_s, memory_bytes
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decoder")
        self._idle: SimpleQueue[_Child] = SimpleQueue()
        self._children = [_Child(timeout_s, memory_bytes) for _ in range(processes)]
        for child in self._children:
            self._idle.put(child)

    def map(self, requests: Iterable[Request]) -> Iterator[Clip | MediaError]:
        """The answer to each request (its root absolute), in order. MediaError: as decode_clip raises, and
        timeout, crashed.
        """
        waiting: deque[Future] = deque()
        try:
            for request in requests:
                waiting.append(self._threads.submit(self._decode, request))
                if len(waiting) >= AHEAD * self.processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _decode(self, request: Request) -> Clip | MediaError:
        child = self._idle.get()
        try:
            return child.decode(request)
        finally:
            self._idle.put(child)

    def close(self) -> None:
        for child in self._children:
            child.stop()
        self._threads.shutdown(cancel_futures=True)
        for child in self._children:
            child.end()

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(self, *_) -> None:
        self.close()


class _Ended(Exception):
    """The child ended without an answer."""


class _Child:
    """One child process; a new one takes its place after it was killed or has died."""

    def __init__(self, timeout_s: float, memory_bytes: int):
        self.timeout_s, self.memory_bytes = timeout_s, memory_bytes
        self.process: subprocess.Popen[bytes] | None = None
        self._pending = bytearray()

    def decode(self, request: Request) -> Clip | MediaError:
        try:
            requests, answers = pipes(self.process or self._start())
            deadline = time.monotonic() + self.timeout_s
            requests.write(encode_request(request))
            requests.flush()
            head = json.loads(self._line(answers, deadline))
            return decode_answer(head, self._take(answers, answer_bytes(head), deadline))
        except TimeoutError:
            self.end()
            return MediaError("timeout", request.path, f"not decoded within {self.timeout_s:g} s")
        except (_Ended, BrokenPipeError):
            return MediaError("crashed", request.path, f"its decoder {how_it_ended(self.end(patience_s=5))}")

    def _start(self) -> subprocess.Popen[bytes]:
        # One thread: clips are decoded side by side, and every further one would cost address space.
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
        process = subprocess.Popen(
            [sys.executable, "-m", "storage.media.decoder_process", str(self.memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **threads},
            cwd=Path(__file__).resolve().parents[2],
        )
        self.process = process
        try:
            self._line(pipes(process)[1], time.monotonic() + START_S)
        except TimeoutError:
            raise _Ended from None
        return process

    def _line(self, answers: IO[bytes], deadline: float) -> bytes:
        while b"\n" not in self._pending:
            self._pending += _read(answers, deadline, CHUNK)
        line, _, self._pending = self._pending.partition(b"\n")
        return bytes(line)

    def _take(self, answers: IO[bytes], count: int, deadline: float) -> bytearray:
        body, self._pending = self._pending, bytearray()
        while len(body) < count:
            body += _read(answers, deadline, min(CHUNK, count - len(body)))
        return body

    def stop(self) -> None:
        """Kill the process from another thread than the one that is asking it."""
        process = self.process
        if process is not None:
            process.kill()

    def end(self, patience_s: float = 0.0) -> int:
        """The exit code of the process, which is killed when it has not ended by then; 0 where there is none."""
        process, self.process = self.process, None
        self._pending = bytearray()
        if process is None:
            return 0
        try:
            code = process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        requests, answers = pipes(process)
        answers.close()
        try:
            requests.close()
        except BrokenPipeError:
            pass  # the rest of a request that it never read
        return code


def _read(answers: IO[bytes], deadline: float, most: int) -> bytes:
    """Up to `most` bytes as they come. TimeoutError: none by the deadline; _Ended: none will."""
    source = answers.fileno()
    if not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
        raise TimeoutError
    data = os.read(source, most)
    if not data:
        raise _Ended
    return data
