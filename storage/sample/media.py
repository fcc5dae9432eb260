"""Writers of the sample corpus's media files: PCM wav, H.264 with AAC in mp4, MPEG-4 in avi.

One encoder thread, bit-exact flags and no dates, so that the same samples and frames give the same bytes on
one machine. Knows nothing of emotions, dialogues or raw layouts.
"""

from __future__ import annotations

import wave
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags

AAC_RATE = 48_000
AAC_BITS = 64_000


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """Write 16-bit PCM; `samples` is float in [-1, 1], [count] for mono or [count, channels]."""
    pcm = np.round(np.clip(samples, -1.0, 1.0) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as sink:
        sink.setnchannels(1 if pcm.ndim == 1 else pcm.shape[1])
        sink.setsampwidth(2)
        sink.setframerate(rate)
        sink.writeframes(pcm.tobytes())


def write_mp4(path: Path, film: np.ndarray, fps: int, samples: np.ndarray, rate: int, channels: int) -> None:
    """Write H.264 video and AAC sound at AAC_RATE.

    `film` is uint8 [frames, height, width, 3] with even sides; `samples` is float mono in [-1, 1] at `rate`,
    copied to every one of 1 or 2 `channels`.
    """
    layout = {1: "mono", 2: "stereo"}[channels]
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        options = {"preset": "superfast", "crf": "25"}
        video = _video_stream(container, "libx264", fps, film.shape[1:3], options)
        # The default coder takes ten times as long, for a gain nobody hears on this speech.
        sound = container.add_stream("aac", rate=AAC_RATE, layout=layout, options={"aac_coder": "fast"})
        sound.codec_context.flags |= Flags.bitexact
        sound.bit_rate = AAC_BITS
        _encode_film(container, video, film)
        for frame in _resampled(samples, rate, layout):
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def write_avi(path: Path, frames: Iterable[np.ndarray], fps: int, height: int, width: int) -> None:
    """Write MPEG-4 Part 2 video under the DivX tag, without sound; each frame is uint8 [height, width, 3]."""
    with av.open(str(path), "w", format="avi", options={"fflags": "+bitexact"}) as container:
        video = _video_stream(container, "mpeg4", fps, (height, width), {"qmin": "5", "qmax": "9"})
        video.codec_context.codec_tag = "DX50"
        video.bit_rate = 900_000
        _encode_film(container, video, frames)


def _video_stream(container, codec: str, fps: int, size: tuple[int, int], options: dict[str, str]):
    video = container.add_stream(codec, rate=fps, options=options)
    video.height, video.width = size
    video.pix_fmt = "yuv420p"
    video.codec_context.thread_count = 1
    video.codec_context.flags |= Flags.bitexact
    video.codec_context.time_base = Fraction(1, fps)
    return video


def _encode_film(container, video, frames: Iterable[np.ndarray]) -> None:
    for number, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number, video.codec_context.time_base
        container.mux(video.encode(frame))
    container.mux(video.encode(None))


def _resampled(samples: np.ndarray, rate: int, layout: str) -> list[av.AudioFrame]:
    channels = 1 if layout == "mono" else 2
    planes = np.ascontiguousarray(np.tile(samples.astype(np.float32), (channels, 1)))
    source = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
    source.sample_rate, source.pts = rate, 0
    resampler = av.AudioResampler("fltp", layout, AAC_RATE)
    return resampler.resample(source) + resampler.resample(None)
