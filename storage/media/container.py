"""Opening a media file and stepping through it, and the one error of a clip that cannot be used.

Knows nothing of datasets, features or shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av

from storage.errors import InputError

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


def open_media(path: Path) -> av.container.InputContainer:
    """The opened file. MediaError: missing, empty, corrupt. A pipe is waited for, like any slow file."""
    path = Path(path)
    if not path.exists():
        raise MediaError("missing", path, "no such file")
    if path.is_file() and path.stat().st_size == 0:
        raise MediaError("empty", path, "the file is empty")
    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError("corrupt", path, f"cannot be opened: {error}") from None


def packets(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """What the file holds of some streams, undecoded; a cut-off file ends where it was cut."""
    source = container.demux(*streams)
    while True:
        try:
            packet = next(source, None)
        except (av.error.FFmpegError, OSError):
            return
        if packet is None:
            return
        yield packet


def frames(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator:
    """Decoded frames of one stream in order; packets that cannot be decoded are left out."""
    for packet in packets(container, stream):
        try:
            yield from packet.decode()
        except (av.error.FFmpegError, OSError):
            continue
