"""From a media file to what the encoders are given: probed first, then decoded once.

Runs in the caller's process; storage/media/decoder_pool has child processes do it, for files that hang or kill decoders.
Knows nothing of datasets, features or shards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from storage.archives import ArchiveError, local_file
from storage.media.container import MediaError, MediaFile
from storage.media.pictures import Window, decode_windows
from storage.media.probe import Probe, probe
from storage.media.sound import SAMPLE_RATE, decode_audio, level_db, speech_channel

SLACK_S = 0.1
"""Packets may hold a little more than is heard (an encoder's lead-in); the decoded length decides."""


@dataclass(frozen=True)
class Request:
    """The files of one utterance, or the video of several with a window for each.

    video, audio: paths below `root` (or of an archive's member, see storage/archives), None where there is none; one
    file may be both. count, size: see decode_windows.
    """

    root: str
    video: str | None
    audio: str | None
    windows: tuple[Window, ...] = ()
    count: int = 8
    size: int = 224
    max_seconds: float | None = None
    decoder: str = "pyav"

    @property
    def path(self) -> str:
        """The file that an error names."""
        return self.video or self.audio or ""


@dataclass(frozen=True)
class Clip:
    """audio: float32 [n] at 16 kHz; frames: one uint8 [count, size, size, 3], or why not, for each window.

    seconds: how long the clip lasts, by its sound where it has some. facts: what the files hold, for the shard.
    """

    audio: np.ndarray | None
    frames: tuple[np.ndarray | MediaError, ...]
    seconds: float
    facts: dict = field(default_factory=dict)


def decode_clip(request: Request) -> Clip:
    """Raises MediaError where a file cannot be used, before decoding where its packets show it.

    The error names the file as the request does.
    """
    clip = Clip(None, (), 0.0)
    for path in dict.fromkeys(path for path in (request.audio, request.video) if path is not None):
        try:
            with local_file(Path(request.root), path) as file:
                clip = _with_file(clip, request, path, file)
        except MediaError as error:
            raise error.about(path) from None
        except ArchiveError as error:
            raise MediaError(error.reason, path, error.args[2]) from None
    return clip


def _with_file(clip: Clip, request: Request, name: str, path: Path) -> Clip:
    """The clip with what one file adds to it: sound, frames, or both."""
    sound, pictures, seconds, facts = clip.audio, clip.frames, clip.seconds, dict(clip.facts)
    with MediaFile(path) as file:
        found = probe(file)
        if name == request.audio:
            _judge(path, found, request.max_seconds)
            sound = decode_audio(file, request.max_seconds)
            seconds = len(sound) / SAMPLE_RATE
            facts["audio"] = _audio_facts(found, sound)
        if name == request.video:
            frames, used = decode_windows(
                file,
                found,
                request.windows,
                request.count,
                request.size,
                request.max_seconds,
                request.decoder,
            )
            pictures = tuple(f.about(name) if isinstance(f, MediaError) else f for f in frames)
            assert found.video is not None, "decode_windows turns away what has no video"
            seconds = seconds or found.video.seconds
            facts["video"] = {**_described(found), **vars(found.video), "decoder": used}
    return Clip(sound, pictures, seconds, facts)


def _judge(path: Path, found: Probe, limit: float | None) -> None:
    seconds = found.audio.seconds if found.audio else 0.0
    if limit is not None and seconds > limit + SLACK_S:
        raise MediaError("too_long", path, f"{seconds:.1f} s, longer than {limit:g} s")


def _described(found: Probe) -> dict:
    return {"format": found.format, "bytes": found.size}


def _audio_facts(found: Probe, sound: np.ndarray) -> dict:
    held = found.audio
    assert held is not None, "decode_audio turns away what has no audio"
    speech = speech_channel(av.AudioLayout(held.layout)) if held.layout else None
    mixed = "centre" if speech is not None else "mean" if held.channels > 1 else "as it is"
    return {**_described(found), **vars(held), "mono": mixed, "level_db": round(level_db(sound), 1)}
