"""Reads TensorBoard's event files by their published framing, without the project's writer."""

from __future__ import annotations

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, of the one event file in `folder`. A step that occurs twice is an error."""
    (file,) = folder.glob("events.out.tfevents.*")
    found: dict[str, dict[int, float]] = {}
    data, at = file.read_bytes(), 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)  # length, its checksum, the event, its checksum
        event = Event.FromString(data[at + 12 : at + 12 + size])
        for value in event.summary.value:
            steps = found.setdefault(value.tag, {})
            assert event.step not in steps, f"{value.tag} has step {event.step} twice"
            steps[event.step] = value.simple_value
        at += 16 + size
    return found
