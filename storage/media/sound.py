"""The sound of a clip as mono samples at 16 kHz, at the level it was recorded at.

Resampled by soxr, which is what librosa's default calls; called directly, since importing librosa costs a decoding
process seconds and 200 MB. The tests hold the result to librosa's. Knows nothing of pictures.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import soxr

from storage.media.container import MediaError, MediaFile

SAMPLE_RATE = 16_000
CENTRE = "FC"
MOST_CHANNELS = 8
"""7.1. Damaged headers claim up to 64, and PyAV 18 reads arrays of more than 8 planes from memory that is not theirs."""
SILENCE = 1e-4
"""Peak level below which a clip counts as silent: -80 dB of full scale, three steps of 16-bit sound."""


def decode_audio(file: MediaFile, max_seconds: float | None = None) -> np.ndarray:
    """The audio stream as float32 [n], mono, 16 kHz.

    One or two channels are averaged; of more the centre channel is taken, which carries the speech in 5.1
    (their average would be six times too quiet). Raises MediaError: no_audio, corrupt, too_long (longer than
    `max_seconds`), silent.
    """
    path = file.path
    if file.audio is None:
        raise MediaError("no_audio", path, "no audio stream")
    parts: list[np.ndarray] = []
    samples, rate = 0, 0
    # To planar float, rate and channels unchanged: a downmix here would be sqrt(2) too loud.
    resampler = av.AudioResampler("fltp")
    for frame in file.frames(file.audio):
        rate = rate or frame.sample_rate
        if frame.layout.nb_channels > MOST_CHANNELS:
            raise MediaError("corrupt", path, f"{frame.layout.nb_channels} channels")
        try:
            blocks = resampler.resample(frame)
        except (av.error.FFmpegError, ValueError) as error:  # rate or channels change on the way
            raise MediaError("corrupt", path, f"audio cannot be decoded: {error}") from None
        parts += map(_mono, blocks)
        samples += sum(block.samples for block in blocks)
        if max_seconds is not None and samples > max_seconds * rate:
            raise too_long(path, max_seconds)
    if not samples or not rate:
        raise MediaError("corrupt", path, "no audio can be decoded")
    sound = np.concatenate(parts)
    if not np.isfinite(sound).all():
        raise MediaError("corrupt", path, "the sound holds samples that are no numbers")
    if np.abs(sound).max() < SILENCE:
        centre = file.audio.layout is not None and speech_channel(file.audio.layout) is not None
        raise MediaError(
            "silent", path, f"no sound in {'its centre channel' if centre else 'the audio stream'}"
        )
    if rate != SAMPLE_RATE:
        sound = soxr.resample(sound, rate, SAMPLE_RATE, "HQ")
    if not len(sound):
        raise MediaError("corrupt", path, f"less than one sample at {SAMPLE_RATE} Hz")
    return sound


def too_long(path: Path, max_seconds: float) -> MediaError:
    return MediaError("too_long", path, f"longer than {max_seconds:g} s")


def level_db(sound: np.ndarray) -> float:
    """Root mean square of samples [n] in dB of full scale."""
    return float(10 * np.log10(max(float(np.mean(np.square(sound, dtype=np.float64))), 1e-12)))


def speech_channel(layout: av.AudioLayout) -> int | None:
    """The channel that `decode_audio` takes alone; None: it averages all."""
    names = [channel.name for channel in layout.channels]
    return names.index(CENTRE) if len(names) > 2 and CENTRE in names else None


def _mono(block: av.AudioFrame) -> np.ndarray:
    channels, speech = block.to_ndarray(), speech_channel(block.layout)
    return channels.mean(axis=0, dtype=np.float32) if speech is None else channels[speech].copy()
