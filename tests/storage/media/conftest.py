"""Clips made for the tests: every frame carries its number, every sound is known."""

import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from storage.media.clip import Request, decode_clip
from storage.media.container import MediaError
from storage.media.pictures import Window


@pytest.fixture(scope="session")
def film():
    """The functions below."""
    return sys.modules[__name__]


def decode_frames(
    path, count=8, seed=0, start=None, end=None, side=None, size=224, max_seconds=None, decoder="pyav"
):
    """The frames of one window of a file, by the road that every clip takes."""
    window = Window(seed, start, end, side)
    (frames,) = decode_clip(
        Request("/", str(path), None, (window,), count, size, max_seconds, decoder)
    ).frames
    if isinstance(frames, MediaError):
        raise frames
    return frames


def decode_sound(path, max_seconds=None):
    return decode_clip(Request("/", None, str(path), max_seconds=max_seconds)).audio


BITS = 10


def coded(number, size=128):
    """A square picture whose vertical stripes are the bits of `number`, highest first."""
    bits = [(number >> (BITS - 1 - place)) & 1 for place in range(BITS)]
    stripes = np.repeat(np.array(bits, np.uint8) * 255, -(-size // BITS))[:size]
    return np.repeat(np.tile(stripes, (size, 1))[:, :, None], 3, axis=2)


def number_of(picture):
    size = picture.shape[1]
    width = -(-128 // BITS) * size / 128
    middles = [int((place + 0.5) * width) for place in range(BITS - 1)]
    last = int(((BITS - 1) * width + size) / 2)
    bits = [picture[size // 2, column].mean() > 127 for column in [*middles, last]]
    return sum(bit << (BITS - 1 - place) for place, bit in enumerate(bits))


def write_video(path, pictures, rate=25, codec="libx264", sound=None, steps=None, **options):
    """`steps`: when each frame is shown, in 1/rate seconds (a variable rate)."""
    with av.open(str(path), "w", options=options.pop("container", {})) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"g": "12", **options}
        voice = None
        if sound is not None:
            samples, sound_rate, layout = sound
            voice = container.add_stream("aac", rate=sound_rate, layout=layout)
        for place, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if steps is not None:
                frame.pts, frame.time_base = steps[place], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if voice is not None:
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples, np.float32), format="fltp", layout=layout
            )
            frame.sample_rate = sound_rate
            container.mux(voice.encode(frame))
            container.mux(voice.encode())
    return path


def tone(rate, seconds=1.0, pitch=440, level=0.3):
    return (level * np.sin(2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def expected_numbers(first, last, count, seed):
    return sorted(
        np.random.default_rng(seed).choice(np.arange(first, last), count, replace=last - first < count)
    )


def numbers(frames):
    return [number_of(picture) for picture in frames]


def sideways(number):
    """The picture of a number as a camera on its side stores it."""
    return np.rot90(coded(number)).copy()


def turned(path):
    """Rewrite an mp4's header: the pictures are to be shown turned to the right by a quarter."""
    one, turn = 0x10000, np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0x4000]]) * 0x10000
    matrices = [np.array([[one, 0, 0], [0, one, 0], [0, 0, 0x4000 * one]]), turn]
    identity, quarter = (matrix.astype(">i4").tobytes() for matrix in matrices)
    content = path.read_bytes()
    at = content.index(identity, content.index(b"tkhd"))
    path.write_bytes(content[:at] + quarter + content[at + len(quarter) :])
    return path
