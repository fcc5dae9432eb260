"""Frames by decord, for the files on which it is right: H.264 mp4 whose every packet is a shown frame.

decord 0.6 gives other frames than were asked for, and says nothing, on avi with B-frames (frame 5 for frame 1552) and
on stream-copied cuts, whose hidden frames it counts and whose tail it repeats: test_decord_conformance.py shows on
which files. So what is not plainly well-formed is left to PyAV. decord is imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import av

from storage.errors import InputError
from storage.media.probe import Probe


def decord_frames(path: Path, found: Probe, numbers: Sequence[int]) -> dict[int, av.VideoFrame] | None:
    """Frame number -> RGB frame, upright, full size. None: decord is not to be trusted here."""
    if not well_formed(found) or found.timeline is None:
        return None
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        if len(reader) != len(found.timeline.seconds):
            return None
        pictures = reader.get_batch(list(numbers)).asnumpy()
    except (decord.DECORDError, RuntimeError):
        return None
    return {
        number: av.VideoFrame.from_ndarray(picture, format="rgb24")
        for number, picture in zip(numbers, pictures, strict=True)
    }


def well_formed(found: Probe) -> bool:
    """H.264 in mp4, every packet with a time, none of them hidden by an edit list."""
    line = found.timeline
    return (
        found.video is not None
        and line is not None
        and "mp4" in found.format.split(",")
        and found.video.codec == "h264"
        and line.origin is not None
        and not line.trimmed
    )


def require(decoder: str) -> None:
    """InputError where the decoder that was asked for is not installed."""
    if decoder == "decord" and find_spec("decord") is None:
        raise InputError(
            "media.decoder is decord, which is not installed: pip install decord, or set media.decoder=pyav"
        )
