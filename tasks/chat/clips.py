"""A clip that somebody gives with a turn -> the features of its sound and its picture.

Decoded in a child process with bounded time and memory. What a clip lacks is told and the rest is used; a clip of no use
is one line. Knows nothing of conversations.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from model.features.encoders import FeatureError
from model.features.settings import FeatureSettings
from storage.errors import InputError
from storage.media.clip import Clip, Request
from storage.media.container import MediaError
from storage.media.decoder_pool import DecoderPool
from storage.media.pictures import Window
from storage.media.settings import MediaSettings
from tasks.chat.models import Models
from tasks.terminal import size_text

MOST_BYTES = 64 << 20
"""Of a clip's file: a turn is at most half a minute long."""
DECODED_AT_ONCE = 2
"""By a server, whoever asks."""


@dataclass(frozen=True)
class Decoded:
    """sound: float32 [n] at 16 kHz; frames: uint8 [frames, side, side, 3]; either None. notes: what it lacks, and why."""

    sound: np.ndarray | None
    frames: np.ndarray | None
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [name for name, part in (("heard", self.sound), ("seen", self.frames)) if part is not None]
        return f"{self.seconds:.1f} s, {' and '.join(parts)}"


@dataclass(frozen=True)
class Heard:
    """A clip's features: audio [Ta, da] and video [Tv, dv], half precision, either None."""

    audio: Tensor | None
    video: Tensor | None
    seconds: float
    notes: tuple[str, ...] = ()


def decode(path: Path, settings: FeatureSettings, media: MediaSettings) -> Decoded:
    """What a file holds. InputError, in one line, where it is no clip, too long or too large, or holds nothing to be
    heard or seen."""
    path = path.resolve()
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a video or sound file") from None
    if not path.is_file():
        raise InputError(f"{path}: no file; give a video or sound file")
    if size > MOST_BYTES:
        raise InputError(f"{path}: {size_text(size)}; a clip has at most {size_text(MOST_BYTES)}")
    # The frames follow from the clip's content and the seed, as a run's do.
    drawn = int(hashlib.blake2b(path.read_bytes(), digest_size=4).hexdigest(), 16) ^ settings.seed

    def request(video: str | None, audio: str | None, *windows: Window) -> Request:
        root, limit = str(path.parent), settings.max_seconds
        return Request(root, video, audio, windows, settings.frames, max_seconds=limit, decoder=media.decoder)

    requests = request(None, path.name), request(path.name, None, Window(drawn))
    with DecoderPool(1, media.timeout_s) as pool:
        heard, seen = pool.map(requests)
    return _joined(path, heard, _first_window(seen))


def decode_bytes(file: bytes, settings: FeatureSettings, media: MediaSettings) -> Decoded:
    """As `decode`, of a file's content."""
    with tempfile.TemporaryDirectory(prefix="empamba-clip-") as folder:
        path = Path(folder) / "clip"
        path.write_bytes(file)
        return decode(path, settings, media)


def _first_window(seen: Clip | MediaError) -> Clip | MediaError:
    """A clip's error where its only window has one."""
    if isinstance(seen, Clip) and isinstance(seen.frames[0], MediaError):
        return seen.frames[0]
    return seen


def _joined(path: Path, heard: Clip | MediaError, seen: Clip | MediaError) -> Decoded:
    errors = [part for part in (heard, seen) if isinstance(part, MediaError)]
    # A clip too long is of no use in either way; nor is one that has neither.
    for error in errors:
        if error.reason in ("too_long", "timeout", "crashed") or len(errors) == 2:
            raise InputError(f"{path.name}: {_why(error)}")
    sound = heard.audio if isinstance(heard, Clip) else None
    frames = seen.frames[0] if isinstance(seen, Clip) else None
    assert not isinstance(frames, MediaError), "an error of its only window is the clip's"
    seconds = heard.seconds if isinstance(heard, Clip) else seen.seconds if isinstance(seen, Clip) else 0.0
    return Decoded(sound, frames, seconds, tuple(f"{path.name}: {_why(error)}" for error in errors))


def _why(error: MediaError) -> str:
    """Its reason and detail, without the file's name."""
    return f"{error.reason.replace('_', ' ')} ({error.args[2]})" if len(error.args) > 2 else str(error)


def features(decoded: Decoded, models: Models) -> Heard:
    """The encoders' states of a decoded clip. InputError where an encoder cannot take it."""
    try:
        return Heard(
            None if decoded.sound is None else models.audio_encoder.states(decoded.sound),
            None if decoded.frames is None else models.video_encoder.states(decoded.frames),
            decoded.seconds,
            decoded.notes,
        )
    except FeatureError as error:
        raise InputError(f"clip: {error}") from None
