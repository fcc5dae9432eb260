"""Decode a clip: 16 kHz mono audio, and a few random frames, exact on every file.

PyAV decodes; librosa and Pillow do what follows. Knows nothing of datasets, features or shards. A file that
cannot be used raises MediaError with a reason code, for the caller's rejects table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import librosa
import numpy as np
from PIL import Image

from storage.errors import InputError

SAMPLE_RATE = 16_000
REASONS = ("missing", "empty", "corrupt", "no_video", "no_audio", "too_long")
CENTRE = "FC"


class MediaError(InputError):
    """A clip that cannot be used. `reason` is one of REASONS."""

    def __init__(self, reason: str, path: Path, detail: str):
        super().__init__(reason, path, detail)  # all three, so that it crosses between processes
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[1]}: {self.args[2]}"


@dataclass(frozen=True)
class Window:
    """What to take of a video: frames between `start` and `end` seconds (whole file: None), one half.

    `seed` draws the frames. `side` is "left", "right" or None (whole picture).
    """

    seed: int
    start: float | None = None
    end: float | None = None
    side: str | None = None


@dataclass(frozen=True)
class Clip:
    """One decoded utterance: audio float32 [n] at 16 kHz, frames uint8 [count, size, size, 3]; None: no such file."""

    audio: np.ndarray | None
    frames: np.ndarray | None


def decode_clip(
    video: Path | None,
    audio: Path | None,
    seed: int,
    start: float | None = None,
    end: float | None = None,
    side: str | None = None,
    count: int = 8,
    size: int = 224,
    max_seconds: float | None = None,
) -> Clip:
    """Both modalities of one utterance. `start`, `end` and `side` apply to the video (see Utterance).

    Raises MediaError as decode_audio and decode_frames do; too_long is judged on the audio where there is one.
    """
    sound = None if audio is None else decode_audio(audio, max_seconds)
    if video is None:
        return Clip(sound, None)
    limit = max_seconds if audio is None else None
    return Clip(sound, decode_frames(video, count, seed, start, end, side, size, limit))


def decode_audio(path: Path, max_seconds: float | None = None) -> np.ndarray:
    """The first audio stream as float32 [n], mono, 16 kHz.

    One or two channels are averaged; of more the centre channel is taken, which carries the speech in 5.1
    (their average would be six times too quiet). Raises MediaError: missing, empty, corrupt, no_audio,
    too_long (longer than `max_seconds`).
    """
    with _open(path) as container:
        if not container.streams.audio:
            raise MediaError("no_audio", path, "no audio stream")
        stream = container.streams.audio[0]
        parts: list[np.ndarray] = []
        samples, rate = 0, 0
        try:
            # To planar float, rate and channels unchanged: a downmix here would be sqrt(2) too loud.
            resampler = av.AudioResampler("fltp")
            for frame in _frames(container, stream):
                rate = rate or frame.sample_rate
                for block in resampler.resample(frame):
                    parts.append(_mono(block))
                    samples += block.samples
                if max_seconds is not None and samples > max_seconds * rate:
                    raise MediaError("too_long", path, f"longer than {max_seconds:g} s")
        except av.error.FFmpegError as error:
            raise MediaError("corrupt", path, f"audio cannot be decoded: {error}") from None
    if not samples:
        raise MediaError("corrupt", path, "no audio can be decoded")
    sound = np.concatenate(parts).astype(np.float32)
    if rate == SAMPLE_RATE:
        return sound
    return librosa.resample(sound, orig_sr=rate, target_sr=SAMPLE_RATE, res_type="soxr_hq").astype(np.float32)


def decode_frames(
    path: Path,
    count: int = 8,
    seed: int = 0,
    start: float | None = None,
    end: float | None = None,
    side: str | None = None,
    size: int = 224,
    max_seconds: float | None = None,
) -> np.ndarray:
    """`count` random frames in order, uint8 [count, size, size, 3] RGB (paper, section 3.1: 8 frames).

    Frames are drawn without repeats where there are enough. Each is cut to `side` first, then to the centre
    square, then resized (bicubic). Raises MediaError: missing, empty, corrupt, no_video, too_long.
    """
    frames = decode_windows(path, [Window(seed, start, end, side)], count, size, max_seconds)[0]
    if isinstance(frames, MediaError):
        raise frames
    return frames


def decode_windows(
    path: Path, windows: Sequence[Window], count: int = 8, size: int = 224, max_seconds: float | None = None
) -> list[np.ndarray | MediaError]:
    """As decode_frames, for many windows of one file in a single pass over it.

    Every frame up to the last one wanted is decoded in sequence: seeking is wrong by up to thousands of
    frames in avi files with B-frames. A window that cannot be served gives its MediaError in place of its
    frames (`max_seconds` bounds each window); a file that cannot be read raises.
    """
    with _open(path) as container:
        timeline = _timeline(container, _video_stream(container, path))
    if not len(timeline.seconds):
        raise MediaError("corrupt", path, "no video frame")
    plans = [_draw(timeline, window, count, path, max_seconds) for window in windows]
    wanted: dict[int, set[str | None]] = {}
    for window, plan in zip(windows, plans, strict=True):
        if not isinstance(plan, MediaError):
            for index in plan:
                wanted.setdefault(int(index), set()).add(window.side)
    if not wanted:
        return list(plans)
    with _open(path) as container:
        pictures = _collect(container, _video_stream(container, path), timeline, wanted, size)
    if not pictures:
        raise MediaError("corrupt", path, "no video frame can be decoded")
    return [
        plan
        if isinstance(plan, MediaError)
        else np.stack([_nearest(pictures[window.side], int(index)) for index in plan])
        for window, plan in zip(windows, plans, strict=True)
    ]


def _open(path: Path) -> av.container.InputContainer:
    path = Path(path)
    if not path.is_file():
        raise MediaError("missing", path, "no such file")
    if path.stat().st_size == 0:
        raise MediaError("empty", path, "the file is empty")
    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError("corrupt", path, f"cannot be opened: {error}") from None


def _frames(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator:
    """Decoded frames; packets that cannot be decoded, and what follows a cut-off end, are left out."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            return
        if packet is None:
            return
        try:
            yield from packet.decode()
        except av.error.FFmpegError:
            continue


def _mono(block: av.AudioFrame) -> np.ndarray:
    channels = block.to_ndarray()
    names = [channel.name for channel in block.layout.channels]
    if len(channels) > 2 and CENTRE in names:
        return channels[names.index(CENTRE)]
    return librosa.to_mono(channels)


def _video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    if not container.streams.video:
        raise MediaError("no_video", path, "no video stream")
    stream = container.streams.video[0]
    stream.thread_count = 1  # two threads gain nothing; clips are decoded side by side instead
    return stream


@dataclass(frozen=True)
class _Timeline:
    """Seconds of every frame in display order, from 0; `origin` is the file's time of the first frame.

    `origin` None: the packets carry no usable times, frames are told by counting them.
    """

    seconds: np.ndarray
    origin: float | None


def _timeline(container: av.container.InputContainer, stream: av.VideoStream) -> _Timeline:
    """The timeline from the packets alone, without decoding; frame counts in headers are not trusted."""
    times: list[float] = []
    seen = 0
    timed = container.format.name != "avi"  # avi with B-frames: packets in decoding order, times missing
    try:
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard or packet.is_corrupt:
                continue
            seen += 1
            if packet.pts is None:
                timed = False
            else:
                times.append(float(packet.pts * packet.time_base))
    except av.error.FFmpegError:
        pass  # a cut-off file ends here
    if timed and times:
        ordered = np.array(sorted(times))
        return _Timeline(ordered - ordered[0], float(ordered[0]))
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    return _Timeline(np.arange(seen) / rate, None)


def _draw(
    timeline: _Timeline, window: Window, count: int, path: Path, max_seconds: float | None
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
        return MediaError("too_long", path, f"longer than {max_seconds:g} s")
    generator = np.random.default_rng(window.seed)
    return np.sort(generator.choice(np.arange(first, last), size=count, replace=last - first < count))


def _collect(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    timeline: _Timeline,
    wanted: dict[int, set[str | None]],
    size: int,
) -> dict[str | None, dict[int, np.ndarray]]:
    """Pictures by side and frame number, decoded in sequence up to the last wanted frame.

    A frame with a time finds its number by it, so that an undecodable neighbour does not shift the rest.
    Every side gets at least one picture, the last one decoded, unless nothing can be decoded.
    """
    pictures: dict[str | None, dict[int, np.ndarray]] = {}
    number, frame = -1, None
    for frame in _frames(container, stream):
        number = _frame_number(frame, timeline, number + 1)
        for side in wanted.get(number, ()):
            pictures.setdefault(side, {}).setdefault(number, _picture(frame, side, size))
        if number >= max(wanted):
            break
    if frame is not None:
        for side in {side for sides in wanted.values() for side in sides} - pictures.keys():
            pictures[side] = {number: _picture(frame, side, size)}
    return pictures


def _frame_number(frame: av.VideoFrame, timeline: _Timeline, counted: int) -> int:
    if timeline.origin is None or frame.pts is None:
        return counted
    return int(np.abs(timeline.seconds - (float(frame.pts * frame.time_base) - timeline.origin)).argmin())


def _picture(frame: av.VideoFrame, side: str | None, size: int) -> np.ndarray:
    """One frame as uint8 [size, size, 3]: upright, one half, centre square, bicubic with antialiasing."""
    image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
    height, width = image.shape[:2]
    if side == "left":
        image = image[:, : width // 2]
    elif side == "right":
        image = image[:, width - width // 2 :]
    width = image.shape[1]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = Image.fromarray(np.ascontiguousarray(image[top : top + edge, left : left + edge]))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def _nearest(pictures: dict[int, np.ndarray], index: int) -> np.ndarray:
    """The picture of a frame, or of the nearest one that could be decoded (the earlier of two)."""
    return pictures[min(pictures, key=lambda number: (abs(number - index), number))]
