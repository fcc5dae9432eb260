"""The child that decodes: one request a line on standard input; on standard output READY, then an answer for each.

An answer is a line of JSON and, behind it, the bytes of the arrays it names. When the parent goes, the input ends
and so does the child. Knows nothing of why a clip is wanted.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Iterable
from dataclasses import asdict

import numpy as np

from storage.media.clip import Clip, Request, decode_clip
from storage.media.container import MediaError
from storage.media.pictures import Window

READY = b"ready\n"
"""The first line: what this process imports is there, and the time of the first clip begins."""


def encode_request(request: Request) -> bytes:
    return json.dumps(asdict(request)).encode() + b"\n"


def decode_request(line: bytes) -> Request:
    row = json.loads(line)
    return Request(**{**row, "windows": tuple(Window(**window) for window in row["windows"])})


def encode_answer(answer: Clip | MediaError) -> tuple[bytes, list[np.ndarray]]:
    """The answer's line, and the arrays whose bytes follow it."""
    if isinstance(answer, MediaError):
        return json.dumps({"error": _error(answer)}).encode() + b"\n", []
    head = {
        "audio": None if answer.audio is None else _shape(answer.audio),
        "frames": [{"error": _error(f)} if isinstance(f, MediaError) else _shape(f) for f in answer.frames],
        "seconds": answer.seconds,
        "facts": answer.facts,
    }
    arrays = [
        np.ascontiguousarray(part) for part in (answer.audio, *answer.frames) if isinstance(part, np.ndarray)
    ]
    return json.dumps(head).encode() + b"\n", arrays


def answer_bytes(head: dict) -> int:
    """How many bytes follow an answer's line."""
    parts = (head.get("audio"), *head.get("frames", ()))
    return sum(_size(part) for part in parts if part is not None and "shape" in part)


def decode_answer(head: dict, body: bytes | bytearray) -> Clip | MediaError:
    if "error" in head:
        return MediaError(*head["error"])
    at = 0

    def array(part: dict) -> np.ndarray:
        """The next array of the body."""
        nonlocal at
        start, at = at, at + _size(part)
        return np.frombuffer(body, part["dtype"], int(np.prod(part["shape"])), start).reshape(part["shape"])

    audio = None if head["audio"] is None else array(head["audio"])
    frames = tuple(MediaError(*part["error"]) if "error" in part else array(part) for part in head["frames"])
    return Clip(audio, frames, head["seconds"], head["facts"])


def _shape(array: np.ndarray) -> dict:
    return {"dtype": array.dtype.str, "shape": list(array.shape)}


def _size(part: dict) -> int:
    return int(np.prod(part["shape"])) * np.dtype(part["dtype"]).itemsize


def _error(error: MediaError) -> list[str]:
    return [str(value) for value in error.args]


def _decode(request: Request) -> Clip | MediaError:
    try:
        return decode_clip(request)
    except MediaError as error:
        return error
    except MemoryError:
        return MediaError("crashed", request.path, "decoding it takes more memory than a decoder is given")
    except Exception as error:  # process boundary: an unexpected error is reported as this file's fault
        traceback.print_exc()
        return MediaError("crashed", request.path, f"{type(error).__name__}: {error}")


def serve(lines: Iterable[bytes], memory_bytes: int) -> None:
    """Answer requests until there are no more. memory_bytes: the address space this process may have."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to the log, never between the answers
    answers.write(READY)
    answers.flush()
    for line in lines:
        head, arrays = encode_answer(_decode(decode_request(line)))
        answers.write(head)
        for array in arrays:
            answers.write(array.data)
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, int(sys.argv[1]))
