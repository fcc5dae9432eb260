"""Read the arrays of an HDF5 file of the kind that Keras writes, as data: nothing in it is run.

What is read: superblock 0, object headers of version 1, groups as B-trees of symbol tables, arrays of little-endian 32-bit
floats that lie in one piece. Anything else, and any place outside the file, is an error. Attributes are passed over.
Source: HDF5 File Format Specification, version 3.0, sections II to IV.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

SIGNATURE = b"\x89HDF\r\n\x1a\n"
ROOT_ENTRY = 24 + 4 * 8
"""Where the root group's symbol table entry begins in superblock 0 with addresses of eight bytes."""
DATASPACE, DATATYPE, LAYOUT, CONTINUATION, SYMBOL_TABLE = 0x01, 0x03, 0x08, 0x10, 0x11
FLOATING, CONTIGUOUS = 1, 1


class Hdf5Error(ValueError):
    """A file that is damaged, or of a kind that is not read here."""


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Every float32 array by its path in the file, "group/…/name"."""
    data = path.read_bytes()
    try:
        if data[:8] != SIGNATURE or (data[8], data[13], data[14]) != (0, 8, 8):
            raise Hdf5Error("no HDF5 file with superblock 0 and sizes of eight bytes")
        return dict(_objects(data, _number(data, ROOT_ENTRY + 8, 8), "", set()))
    except (Hdf5Error, struct.error, IndexError, ValueError) as error:
        raise Hdf5Error(f"{path}: {error}; fetch it again") from None


def _number(data: bytes, at: int, size: int) -> int:
    """A little-endian whole number."""
    if not 0 <= at <= len(data) - size:
        raise Hdf5Error(f"it points to byte {at}, beyond its end")
    return int.from_bytes(data[at : at + size], "little")


def _objects(data: bytes, at: int, path: str, seen: set[int]) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays at and under the object header at `at`."""
    if at in seen:
        raise Hdf5Error("one object stands in it twice")
    seen.add(at)
    messages = _messages(data, at)
    if SYMBOL_TABLE in messages:
        table = messages[SYMBOL_TABLE]
        for name, child in _children(data, _number(data, table, 8), _number(data, table + 8, 8), seen):
            yield from _objects(data, child, f"{path}/{name}" if path else name, seen)
    elif {DATASPACE, DATATYPE, LAYOUT} <= messages.keys():
        kind = _number(data, messages[DATATYPE], 1) & 15, _number(data, messages[DATATYPE] + 4, 4)
        if kind == (FLOATING, 4):
            yield path, _array(data, path, messages[DATASPACE], messages[LAYOUT])


def _messages(data: bytes, at: int) -> dict[int, int]:
    """Where the body of each kind of message of an object header begins."""
    version, count, size = _number(data, at, 1), _number(data, at + 2, 2), _number(data, at + 8, 4)
    if version != 1:
        raise Hdf5Error(f"object header of version {version}")
    found: dict[int, int] = {}
    blocks = [(at + 16, size)]
    while blocks and count:
        place, left = blocks.pop(0)
        end = place + left
        while place + 8 <= end and count:
            kind, length, body = _number(data, place, 2), _number(data, place + 2, 2), place + 8
            if kind == CONTINUATION:
                blocks.append((_number(data, body, 8), _number(data, body + 8, 8)))
            found.setdefault(kind, body)
            place, count = body + length, count - 1
    return found


def _children(data: bytes, tree: int, heap: int, seen: set[int]) -> Iterator[tuple[str, int]]:
    """Names and object headers of a group's members."""
    if data[tree : tree + 4] != b"TREE" or data[heap : heap + 4] != b"HEAP" or tree in seen:
        raise Hdf5Error("a group without a tree or a heap of its own")
    seen.add(tree)
    names = _number(data, heap + 24, 8)
    for i in range(_number(data, tree + 6, 2)):
        child = _number(data, tree + 24 + 8 + 16 * i, 8)
        if _number(data, tree + 5, 1):
            yield from _children(data, child, heap, seen)
            continue
        if data[child : child + 4] != b"SNOD":
            raise Hdf5Error("a tree whose leaf is no symbol table")
        for entry in range(child + 8, child + 8 + 40 * _number(data, child + 6, 2), 40):
            start = names + _number(data, entry, 8)
            name = data[start : data.index(b"\0", start)]
            yield name.decode("utf-8"), _number(data, entry + 8, 8)


def _array(data: bytes, path: str, space: int, layout: int) -> np.ndarray:
    version, rank = _number(data, space, 1), _number(data, space + 1, 1)
    dimensions = space + (8 if version == 1 else 4)
    shape = tuple(_number(data, dimensions + 8 * i, 8) for i in range(rank))
    if (_number(data, layout, 1), _number(data, layout + 1, 1)) != (3, CONTIGUOUS):
        raise Hdf5Error(f"{path} does not lie in one piece")
    start, size = _number(data, layout + 2, 8), _number(data, layout + 10, 8)
    if size != 4 * prod(shape) or start + size > len(data):
        raise Hdf5Error(f"{path} of shape {shape} has {size} bytes, or too few are left")
    return np.frombuffer(data, "<f4", prod(shape), start).reshape(shape)
