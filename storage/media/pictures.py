"""A few seeded frames of a clip, exact on every file: drawn by time, decoded in sequence, resized and cut.

FFmpeg's scaler resizes (bicubic, with antialiasing), straight from the decoded frame. Knows nothing of sound, and of
decord only when to ask it (decord_frames).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from storage.media.container import MediaError, MediaFile
from storage.media.decord_frames import decord_frames
from storage.media.probe import Probe, Timeline
from storage.media.sound import too_long

Pictures = dict[str | None, dict[int, np.ndarray]]
"""side -> frame number -> uint8 [size, size, 3]."""


@dataclass(frozen=True)
class Window:
    """What to take of a video: frames between `start` and `end` seconds (whole file: None), one half.

    `seed` draws the frames. `side` is "left", "right" or None (whole picture).
    """

    seed: int
    start: float | None = None
    end: float | None = None
    side: str | None = None


def decode_windows(
    file: MediaFile,
    found: Probe,
    windows: Sequence[Window],
    count: int = 8,
    size: int = 224,
    max_seconds: float | None = None,
    decoder: str = "pyav",
) -> tuple[list[np.ndarray | MediaError], str]:
    """`count` random frames of each window, in order, uint8 [count, size, size, 3] RGB (paper, section 3.1: 8),
    from a single pass over the file, and which decoder gave them.

    Frames are drawn without repeats where there are enough. Each is the centre square of its window's side. A window that cannot be served gives its MediaError in place of its
    frames (`max_seconds` bounds each window); a file that cannot be read raises it: no_video, corrupt.
    """
    path = file.path
    if found.timeline is None or file.video is None:
        raise MediaError("no_video", path, "no video stream")
    if not len(found.timeline.seconds):
        raise MediaError("corrupt", path, "no video frame")
    plans = [_draw(found.timeline, window, count, path, max_seconds) for window in windows]
    wanted: dict[int, set[str | None]] = {}
    for window, plan in zip(windows, plans, strict=True):
        if not isinstance(plan, MediaError):
            for index in plan:
                wanted.setdefault(int(index), set()).add(window.side)
    if not wanted:
        return list(plans), decoder
    pictures, used = None, decoder
    if decoder == "decord":
        whole = decord_frames(path, found, sorted(wanted))
        pictures = None if whole is None else _cut(whole, wanted, size)
    if pictures is None:
        pictures, used = _in_sequence(file.frames(file.video), found.timeline, wanted, size), "pyav"
    if not pictures:
        raise MediaError("corrupt", path, "no video frame can be decoded")
    return [
        plan
        if isinstance(plan, MediaError)
        else np.stack([_nearest(pictures[window.side], int(index)) for index in plan])
        for window, plan in zip(windows, plans, strict=True)
    ], used


def _draw(
    timeline: Timeline, window: Window, count: int, path: Path, max_seconds: float | None
) -> np.ndarray | MediaError:
    """Sorted frame numbers [count] of a window; with repeats only where it has fewer frames than `count`."""
    seconds = timeline.seconds
    first, last = 0, len(seconds)
    if window.start is not None:
        first = int(np.searchsorted(seconds, window.start - 1e-6))
        if first == len(seconds):
            return MediaError("corrupt", path, f"the video ends before {window.start:g} s")
    if window.end is not None:
        last = max(first + 1, int(np.searchsorted(seconds, window.end - 1e-6)))
    if max_seconds is not None and seconds[last - 1] - seconds[first] > max_seconds:
        return too_long(path, max_seconds)
    generator = np.random.default_rng(window.seed)
    return np.sort(generator.choice(np.arange(first, last), size=count, replace=last - first < count))


def _cut(whole: dict[int, av.VideoFrame], wanted: dict[int, set[str | None]], size: int) -> Pictures:
    pictures: Pictures = {}
    for number, sides in wanted.items():
        for side in sides:
            pictures.setdefault(side, {})[number] = _picture(whole[number], side, size)
    return pictures


def _in_sequence(
    frames: Iterable[av.VideoFrame], timeline: Timeline, wanted: dict[int, set[str | None]], size: int
) -> Pictures:
    """Pictures decoded one after the other up to the last wanted frame: seeking is wrong by up to thousands of
    frames in avi files with B-frames.

    A frame with a time finds its number by it, so that an undecodable neighbour does not shift the rest.
    Every side gets at least one picture, the last one decoded, unless nothing can be decoded.
    """
    pictures: Pictures = {}
    number, frame = -1, None
    for frame in frames:
        number = _frame_number(frame, timeline, number + 1)
        for side in wanted.get(number, ()):
            pictures.setdefault(side, {}).setdefault(number, _picture(frame, side, size))
        if number >= max(wanted):
            break
    if frame is not None:
        for side in {side for sides in wanted.values() for side in sides} - pictures.keys():
            pictures[side] = {number: _picture(frame, side, size)}
    return pictures


def _frame_number(frame: av.VideoFrame, timeline: Timeline, counted: int) -> int:
    if timeline.origin is None or frame.pts is None or frame.time_base is None:
        return counted
    return int(np.abs(timeline.seconds - (float(frame.pts * frame.time_base) - timeline.origin)).argmin())


def _picture(frame: av.VideoFrame, side: str | None, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: upright, one half, its centre square, which is scaled to `size`."""
    turns = frame.rotation // 90
    width, height = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
    part = width if side is None else width // 2
    edge = min(part, height)
    shown, tall = round(part * size / edge), round(height * size / edge)
    wide = shown if side is None else round(width * size / edge)
    scaled = (tall, wide) if turns % 2 else (wide, tall)
    image = np.rot90(frame.reformat(*scaled, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray(), turns)
    left = (wide - shown if side == "right" else 0) + (shown - size) // 2
    top = (tall - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def _nearest(pictures: dict[int, np.ndarray], index: int) -> np.ndarray:
    """The picture of a frame, or of the nearest one that could be decoded (the earlier of two)."""
    return pictures[min(pictures, key=lambda number: (abs(number - index), number))]
