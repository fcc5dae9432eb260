"""Damaged media files through the decoding child: each must end as a clip or as a counted reject.

`python benchmarks/fuzz_media.py [--files 500] [--seed 0]`; part of `make bench NAME=fuzz`, and a seeded part of it
runs in the tests. Clips of every container that the datasets use are made small, then damaged as downloads and
disks damage them, and in the fields of their headers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags

from storage.media.clip import Clip, Request
from storage.media.decoder_pool import DecoderPool
from storage.media.pictures import Window

RATE = 16_000
KINDS = {
    # name: video codec (None: sound only), audio codec, options of the container
    "plain.mp4": ("libx264", "aac", {}),
    "fast.mp4": ("libx264", "aac", {"movflags": "faststart"}),
    "fragments.mp4": ("libx264", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    "divx.avi": ("mpeg4", None, {}),
    "sound.avi": ("mpeg4", "mp3", {}),
    "clip.mkv": ("libx264", "aac", {}),
    "clip.flv": ("flv", "mp3", {}),
    "sound.wav": (None, "pcm_s16le", {}),
    "sound.mp3": (None, "mp3", {}),
}


OPTIONS = {"libx264": {"bf": "1", "g": "10"}, "mpeg4": {"bf": "1", "g": "10"}}


def whole(folder: Path) -> list[Path]:
    """One good clip of each kind, the same bytes every time: 1.2 s, 64 x 64, 25 frames a second."""
    generator = np.random.default_rng(1)
    film = generator.integers(0, 255, (30, 8, 8, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    sound = (0.3 * np.sin(np.arange(int(1.2 * 44_100)) / 20)).astype(np.float32)
    paths = []
    for name, (video, audio, options) in KINDS.items():
        paths.append(folder / name)
        with av.open(str(paths[-1]), "w", options={**options, "fflags": "+bitexact"}) as container:
            pictures = container.add_stream(video, rate=25, options=OPTIONS.get(video, {})) if video else None
            voice = container.add_stream(audio, rate=44_100, layout="stereo") if audio else None
            for stream in filter(None, (pictures, voice)):
                stream.codec_context.flags |= Flags.bitexact
                stream.codec_context.thread_count = 1
            if pictures:
                pictures.width = pictures.height = 64
                pictures.pix_fmt = "yuv420p"
                for picture in film:
                    container.mux(pictures.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                container.mux(pictures.encode(None))
            if voice:
                frame = av.AudioFrame.from_ndarray(np.stack([sound, sound]), format="fltp", layout="stereo")
                frame.sample_rate = 44_100
                resampler = av.AudioResampler(voice.format, "stereo", 44_100, voice.frame_size or None)
                for block in resampler.resample(frame) + resampler.resample(None):
                    container.mux(voice.encode(block))
                container.mux(voice.encode(None))
    return paths


def damaged(content: bytes, generator: np.random.Generator, others: list[bytes]) -> bytes:
    """One to three kinds of damage, each where chance puts it."""
    data = bytearray(content)
    for _ in range(generator.integers(1, 4)):
        if len(data) < 64:
            break
        at = int(generator.integers(0, len(data)))
        head = int(generator.integers(0, min(len(data), 2048) - 8))
        length = int(generator.integers(1, max(2, len(data) // 4)))
        kind = generator.integers(0, 9)
        if kind == 0:  # bits rot
            for place in generator.integers(0, len(data), generator.integers(1, 30)):
                data[place] ^= 1 << int(generator.integers(0, 8))
        elif kind == 1:  # the download broke off
            del data[at:]
        elif kind == 2:  # a block was never written
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif kind == 3:  # a block is gone
            del data[at : at + length]
        elif kind == 4:  # a block of something else
            data[at : at + length] = generator.integers(0, 256, length, np.uint8).tobytes()
        elif kind == 5:  # a field of the header has the largest or an absurd value
            field = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"\x80\x00\x00\x00"]
            data[head : head + 4] = field[int(generator.integers(0, 4))]
        elif kind == 6:  # the header's bits
            for place in generator.integers(0, min(len(data), 2048), generator.integers(1, 10)):
                data[place] = int(generator.integers(0, 256))
        elif kind == 7:  # the end of another file
            other = others[int(generator.integers(0, len(others)))]
            data[at:] = other[at % len(other) :]
        else:  # a part twice
            data[at:at] = data[at : at + length]
    return bytes(data)


def damaged_files(folder: Path, files: int, seed: int) -> Iterator[str]:
    """Write damaged clips; yields their names."""
    good = whole(folder)
    contents = [path.read_bytes() for path in good]
    for n in range(files):
        generator = np.random.default_rng((seed, n))
        at = int(generator.integers(0, len(good)))
        name = f"{n:04}_{good[at].name}"
        (folder / name).write_bytes(damaged(contents[at], generator, contents))
        yield name


def request(folder: Path, name: str, decoder: str = "pyav") -> Request:
    video = None if name.endswith((".wav", ".mp3")) else name
    audio = None if name.endswith("divx.avi") else name
    windows = (Window(0), Window(1, 0.2, 0.9, "left")) if video else ()
    return Request(str(folder), video, audio, windows, count=4, size=64, max_seconds=30, decoder=decoder)


def told(answer: Clip) -> str:
    """Checks what a damaged file still gave: it may be poor, but not malformed."""
    if answer.audio is not None:
        assert answer.audio.dtype == np.float32 and np.isfinite(answer.audio).all()
        assert 0 < len(answer.audio) <= 30 * RATE + 1
    for frames in answer.frames:
        if isinstance(frames, np.ndarray):
            assert frames.shape == (4, 64, 64, 3) and frames.dtype == np.uint8
    return "decoded"


def main(files: int = 500, seed: int = 0) -> dict:
    """Figures of one campaign; progress goes to standard error."""
    try:
        import decord  # noqa: F401

        decoders = ("pyav", "decord")
    except ImportError:
        decoders = ("pyav",)
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch, DecoderPool(2, timeout_s=30) as pool:
        folder = Path(scratch)
        requests = [
            request(folder, name, decoders[n % len(decoders)])
            for n, name in enumerate(damaged_files(folder, files, seed))
        ]
        for n, answer in enumerate(pool.map(requests)):
            end = told(answer) if isinstance(answer, Clip) else answer.reason
            ends[end] += 1
            if end in ("crashed", "timeout"):
                print(f"{requests[n].path} ({requests[n].decoder}): {answer}", file=sys.stderr)
            if (n + 1) % 100 == 0:
                print(f"{n + 1} of {files}: {dict(ends)}", file=sys.stderr)
    return {
        "inputs": files,
        "crashed": ends["crashed"],
        "hung": ends["timeout"],
        "uncounted": files - ends.total(),
        "ends": dict(sorted(ends.items())),
        "decoders": list(decoders),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(json.dumps({"name": "fuzz_media", **main(asked.files, asked.seed)}))
