"""Opening a media file and reading it once, and the one error of a clip that cannot be used.

Knows nothing of datasets, features or shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import av

from storage.errors import InputError

Stream = TypeVar("Stream", bound=av.stream.Stream)

REASONS = (
    "missing", "empty", "corrupt", "no_video", "no_audio", "silent", "too_long", "mis_cut", "timeout", "crashed",
)  # fmt: skip


class MediaError(InputError):
    """A clip that cannot be used. `reason` is one of REASONS."""

    def __init__(self, reason: str, path: Path | str, detail: str):
        super().__init__(reason, path, detail)  # all three, so that it crosses between processes
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[1]}: {self.args[2]}"

    def about(self, name: str) -> MediaError:
        """The same error under the name the reader knows the file by."""
        return MediaError(self.reason, name, self.args[2])


class MediaFile:
    """An opened file, its first video and its first audio stream (None: none of a known codec). A context manager.

    What the file holds of the two is read once and kept, still compressed: probing and decoding both go over it.
    MediaError: missing, empty, corrupt. A pipe is waited for, like any slow file.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        if not self.path.exists():
            raise MediaError("missing", path, "no such file")
        if self.path.is_file() and self.path.stat().st_size == 0:
            raise MediaError("empty", path, "the file is empty")
        try:
            self._container = av.open(str(path))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise MediaError("corrupt", path, f"cannot be opened: {error}") from None
        self.format: str = self._container.format.name
        self.video: av.VideoStream | None = _first_decodable(self._container.streams.video)
        self.audio: av.AudioStream | None = _first_decodable(self._container.streams.audio)
        if self.video is not None:
            self.video.thread_count = 1  # two threads gain nothing; clips are decoded side by side instead

    @cached_property
    def _packets(self) -> dict[int, list[av.Packet]]:
        """Packets of each stream, as far as the file can be read: a cut-off file ends where it was cut."""
        streams = [stream for stream in (self.video, self.audio) if stream is not None]
        kept: dict[int, list[av.Packet]] = {stream.index: [] for stream in streams}
        try:
            for packet in self._container.demux(*streams):
                kept[packet.stream.index].append(packet)
        except (av.error.FFmpegError, OSError):
            pass
        return kept

    def packets(self, stream: av.stream.Stream) -> list[av.Packet]:
        return self._packets[stream.index]

    def frames(self, stream: av.stream.Stream) -> Iterator:
        """Decoded frames of a stream in order, once; packets that cannot be decoded are left out."""
        for packet in self.packets(stream):
            try:
                yield from packet.decode()
            except (av.error.FFmpegError, OSError):
                continue

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(self, *_) -> None:
        self._container.close()


def _first_decodable(streams: Iterable[Stream]) -> Stream | None:
    return next((stream for stream in streams if stream.codec_context is not None), None)
