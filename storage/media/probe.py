"""What a media file holds, by its packets: streams, sizes, rates, channels and real lengths, nothing decoded.

Headers name codecs and sizes; lengths and frame counts come from the packets, since headers of cut files
lie. Knows nothing of who asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import av
import numpy as np

from storage.media.container import MediaError, MediaFile


@dataclass(frozen=True)
class VideoFacts:
    """`rate` in frames a second, `seconds` from the first frame to the end of the last."""

    codec: str
    width: int
    height: int
    rate: float
    frames: int
    seconds: float


@dataclass(frozen=True)
class AudioFacts:
    """`rate` in samples a second, `channels` by name where there are more than two ("5.1")."""

    codec: str
    rate: int
    channels: int
    layout: str
    seconds: float


@dataclass(frozen=True)
class Timeline:
    """Seconds of every frame in display order, from 0; `origin` is the file's time of the first frame.

    `origin` None: the packets carry no usable times, frames are numbered by counting them. `trimmed`: packets that
    are there to decode others and are never shown (an edit list hides them).
    """

    seconds: np.ndarray
    origin: float | None
    trimmed: int = 0


@dataclass(frozen=True)
class Probe:
    """One file: container format, bytes, and the first stream of either kind (None: it has none)."""

    format: str
    size: int
    video: VideoFacts | None
    audio: AudioFacts | None
    timeline: Timeline | None

    @property
    def seconds(self) -> float:
        """Length of the longest stream."""
        return max((stream.seconds for stream in (self.video, self.audio) if stream), default=0.0)


def probe(file: MediaFile) -> Probe:
    """Probe an opened file. MediaError: corrupt (it holds neither kind of stream)."""
    if file.video is None and file.audio is None:
        raise MediaError("corrupt", file.path, "neither a video nor an audio stream")
    video, audio, timeline = None, None, None
    if file.video is not None:
        timeline = _timeline(file, file.video)
        video = _video_facts(file.video, timeline)
    if file.audio is not None:
        audio = _audio_facts(file.audio, _Span(file.packets(file.audio)))
    return Probe(file.format, file.path.stat().st_size, video, audio, timeline)


class _Span:
    """Times of the packets of one stream, in seconds, and from the first packet to the end of the last."""

    def __init__(self, packets: Iterable[av.Packet]) -> None:
        self.times: list[float] = []
        self.shown = self.trimmed = 0
        self.first = self.last = 0.0
        for packet in packets:
            self._add(packet)

    def _add(self, packet: av.Packet) -> None:
        if not packet.size or packet.is_corrupt:
            return
        if packet.is_discard:
            self.trimmed += 1
            return
        self.shown += 1
        if packet.pts is not None:
            time = float(packet.pts * packet.time_base)
            end = time + float((packet.duration or 0) * packet.time_base)
            self.first = min(self.first, time) if self.times else time
            self.last = max(self.last, end) if self.times else end
            self.times.append(time)


def _timeline(file: MediaFile, stream: av.VideoStream) -> Timeline:
    span = _Span(file.packets(stream))
    # Avi with B-frames: packets in decoding order, with times that are missing or wrong.
    if file.format != "avi" and span.times and len(span.times) == span.shown:
        ordered = np.array(sorted(span.times))
        return Timeline(ordered - ordered[0], float(ordered[0]), span.trimmed)
    return Timeline(np.arange(span.shown) / _rate(stream), None, span.trimmed)


def _rate(stream: av.VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _video_facts(stream: av.VideoStream, timeline: Timeline) -> VideoFacts:
    count, rate = len(timeline.seconds), _rate(stream)
    length = float(timeline.seconds[-1]) + 1 / rate if count else 0.0
    return VideoFacts(stream.codec.name, stream.width, stream.height, rate, count, length)


def _audio_facts(stream: av.AudioStream, span: _Span) -> AudioFacts:
    layout = stream.layout.name if stream.layout else ""
    return AudioFacts(
        stream.codec.name,
        stream.sample_rate or 0,
        stream.channels or 0,
        layout,
        max(0.0, span.last - span.first),
    )
