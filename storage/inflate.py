"""Inflate a gzip file from the middle: restart points at block boundaries, which Python's own binding of zlib hides.

A restart point is the 32 kB that inflate looks back on, at a block boundary (as in zlib's example zran). Where there is
no zlib to load, `available` says so, and a file is inflated from its start. Knows nothing of archives.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

SPACING = 8 << 20
"""Bytes of inflated data between restart points: what lies behind one costs inflating half of that on average."""
CHUNK = 1 << 20
WINDOW = 32_768

Z_OK, Z_STREAM_END, Z_BUF_ERROR = 0, 1, -5
Z_NO_FLUSH, Z_BLOCK = 0, 5
AT_BOUNDARY, IN_LAST_BLOCK = 128, 64
GZIP, RAW = 31, -15


@dataclass(frozen=True)
class Point:
    """Where inflating may start: `start` bytes of data lie before it, at byte `at` of the file less `bits` bits."""

    start: int
    at: int
    bits: int
    window: bytes


class _Stream(ctypes.Structure):
    _fields_ = [
        ("next_in", ctypes.c_void_p), ("avail_in", ctypes.c_uint), ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p), ("avail_out", ctypes.c_uint), ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p), ("state", ctypes.c_void_p), ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p), ("opaque", ctypes.c_void_p), ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong), ("reserved", ctypes.c_ulong),
    ]  # fmt: skip


@cache
def _load_zlib() -> ctypes.CDLL | None:
    """The system's zlib; None where there is none."""
    try:
        library = ctypes.CDLL(ctypes.util.find_library("z") or "libz.so.1")
        library.zlibVersion.restype = ctypes.c_char_p
        return library if library.zlibVersion().startswith(b"1.") else None
    except (OSError, AttributeError):
        return None


def available() -> bool:
    """Whether data can be inflated from a restart point here."""
    return _load_zlib() is not None


def _zlib() -> ctypes.CDLL:
    library = _load_zlib()
    assert library is not None, "asked for where it is not available"
    return library


@contextmanager
def _inflating(bits: int) -> Iterator[_Stream]:
    stream = _Stream()
    version = ctypes.c_char_p(_zlib().zlibVersion())
    if _zlib().inflateInit2_(ctypes.byref(stream), bits, version, ctypes.sizeof(_Stream)) != Z_OK:
        raise OSError("zlib cannot start")
    try:
        yield stream
    finally:
        _zlib().inflateEnd(ctypes.byref(stream))


def inflated(raw: BinaryIO, points: list[Point]) -> Iterator[bytes]:
    """The data of a gzip file in blocks; a restart point goes to `points` each SPACING. EOFError, OSError: damage."""
    if not available():
        with gzip.open(raw) as file:
            while block := file.read(CHUNK):
                yield block
        return
    room = ctypes.create_string_buffer(CHUNK)
    taken, made, tail, ended = 0, 0, b"", False
    with _inflating(GZIP) as stream:
        while chunk := raw.read(CHUNK):
            given = ctypes.c_char_p(chunk)
            stream.next_in, stream.avail_in = ctypes.cast(given, ctypes.c_void_p), len(chunk)
            full = False
            while stream.avail_in or full:
                if ended:  # a further gzip file follows in the same one, or padding does
                    if chunk[-stream.avail_in :].strip(b"\0") == b"":
                        break
                    _zlib().inflateReset(ctypes.byref(stream))
                    tail, ended = b"", False
                before = stream.avail_in
                block, code = _step(stream, room, Z_BLOCK)
                full = len(block) == CHUNK
                taken += before - stream.avail_in
                made += len(block)
                tail = (tail + block)[-WINDOW:]
                if block:
                    yield block
                ended = code == Z_STREAM_END
                boundary = stream.data_type & AT_BOUNDARY and not stream.data_type & IN_LAST_BLOCK
                if boundary and (not points or not tail or made - points[-1].start >= SPACING):
                    points.append(Point(made, taken, stream.data_type & 7, tail))
    if not ended:
        raise EOFError("the file is cut off")


def _step(stream: _Stream, room: ctypes.Array, flush: int) -> tuple[bytes, int]:
    stream.next_out, stream.avail_out = ctypes.addressof(room), len(room)
    code = _zlib().inflate(ctypes.byref(stream), flush)
    if code not in (Z_OK, Z_STREAM_END, Z_BUF_ERROR):
        raise OSError(f"the gzip data are damaged (zlib code {code})")
    return ctypes.string_at(room, len(room) - stream.avail_out), code


def inflate_from(raw: BinaryIO, point: Point, start: int, size: int) -> bytes:
    """`size` bytes of data from `start`; fewer where the gzip stream ends before."""
    raw.seek(point.at - (1 if point.bits else 0))
    room = ctypes.create_string_buffer(CHUNK)
    found, place = bytearray(), point.start
    with _inflating(RAW) as stream:
        if point.bits:
            value = raw.read(1)[0] >> (8 - point.bits)
            _zlib().inflatePrime(ctypes.byref(stream), point.bits, value)
        if point.window:
            _zlib().inflateSetDictionary(ctypes.byref(stream), point.window, len(point.window))
        code = Z_OK
        while code != Z_STREAM_END and len(found) < size and (chunk := raw.read(CHUNK // 4)):
            given = ctypes.c_char_p(chunk)
            stream.next_in, stream.avail_in = ctypes.cast(given, ctypes.c_void_p), len(chunk)
            full = False
            while code != Z_STREAM_END and len(found) < size and (stream.avail_in or full):
                block, code = _step(stream, room, Z_NO_FLUSH)
                full = len(block) == CHUNK
                found += block[max(0, start - place) :]
                place += len(block)
    return bytes(found[:size])
