"""A raw clip as every browser plays it: H.264 and AAC in mp4, of one utterance alone.

What is so already is copied; what is a part of a longer film, or of another kind, is cut and encoded again. All of it in a
child process with limits, which is started again where a file kills it. Knows nothing of what the clips are for.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from storage.archives import ArchiveError, local_file
from storage.child_process import how_it_ended, pipes
from storage.errors import InputError
from storage.files import TEMPORARY, shown

MEMORY_BYTES = 4 << 30
MOST_S = 300.0
"""Longer clips are not shown: a span of a film, or the whole file where it is not cut."""
MOST_BYTES = 64 << 20
"""Of a file that is copied as it is."""
HEIGHT = 480
"""Higher pictures are made as low as this when they are encoded again."""
RATE = 48_000


@dataclass(frozen=True)
class WebClip:
    """What to show, and into which file. video, audio: paths below `root`, or of an archive's member; one may be both.

    start, end, side: the part of the video (storage/utterance.Utterance).
    """

    root: str
    video: str | None
    audio: str | None
    target: str
    start: float | None = None
    end: float | None = None
    side: str | None = None


def write_web_clips(
    clips: Sequence[WebClip], timeout_s: float = 120.0, memory_bytes: int = MEMORY_BYTES
) -> Iterator[str | None]:
    """Writes each to its target; yields, in order, None, or why a clip cannot be shown, in a few words.

    timeout_s: for each; what takes longer is given up.
    """
    done = 0
    while done < len(clips):
        child = _Child(clips[done:], memory_bytes)
        try:
            for answer in child.answers(timeout_s):
                yield answer
                done += 1
        finally:
            child.end()
        if done < len(clips):
            yield child.fault
            done += 1


class _Child:
    """A process that makes clips one after the other, and answers with a line for each."""

    def __init__(self, clips: Sequence[WebClip], memory_bytes: int):
        self.fault = ""
        self.left = len(clips)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "storage.media.web_clip", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).resolve().parents[2],
        )
        requests, _ = pipes(self.process)
        try:
            requests.write(json.dumps([asdict(clip) for clip in clips]).encode())
            requests.close()
        except BrokenPipeError:
            pass  # the missing answers say so

    def answers(self, timeout_s: float) -> Iterator[str | None]:
        """As far as they come; `fault` then says why no more did."""
        _, source = pipes(self.process)
        pending = b""
        while self.left:
            deadline = time.monotonic() + timeout_s
            while b"\n" not in pending:
                if not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    self.fault = f"not ready within {timeout_s:g} s"
                    return
                part = os.read(source.fileno(), 1 << 16)
                if not part:
                    self.fault = f"its decoder {how_it_ended(self.process.wait())}"
                    return
                pending += part
            line, _, pending = pending.partition(b"\n")
            self.left -= 1
            yield json.loads(line)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        pipes(self.process)[1].close()


# In the child -----------------------------------------------------------------------------------------


def _serve() -> None:
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for request in json.loads(sys.stdin.buffer.read()):
        print(json.dumps(_outcome(WebClip(**request))), flush=True)


def _outcome(clip: WebClip) -> str | None:
    try:
        _make(clip)
    except ArchiveError as error:
        return error.reason
    except InputError as error:
        return str(error)
    except FileNotFoundError:
        return "no such file"
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        return shown(f"{type(error).__name__}: {error}"[:200])
    return None


def _make(clip: WebClip) -> None:
    target = Path(clip.target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{TEMPORARY}{target.name}")
    root = Path(clip.root)
    first = clip.video or clip.audio
    if first is None:
        raise InputError("neither picture nor sound")
    try:
        with local_file(root, first) as file:
            whole = clip.start is None and clip.end is None and clip.side is None
            if whole and clip.audio in (clip.video, None) and _plays(file):
                shutil.copyfile(file, draft)
            elif clip.video is None:
                _encode(draft, None, file, clip)
            elif clip.audio in (clip.video, None):
                _encode(draft, file, file, clip)
            else:
                with local_file(root, clip.audio) as sound:
                    _encode(draft, file, sound, clip)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def _plays(file: Path) -> bool:
    """Whether browsers play the file as it is."""
    if file.stat().st_size > MOST_BYTES:
        return False
    with av.open(str(file)) as container:
        if "mp4" not in container.format.name or len(container.streams) > 2:
            return False
        video = [s for s in container.streams.video if s.codec_context is not None]
        audio = [s for s in container.streams.audio if s.codec_context is not None]
        return (
            len(video) == 1
            and video[0].codec_context.name == "h264"
            and video[0].codec_context.pix_fmt in ("yuv420p", "yuvj420p")
            and all(s.codec_context.name in ("aac", "mp3") and s.channels <= 2 for s in audio)
        )


def _encode(draft: Path, video: Path | None, audio: Path, clip: WebClip) -> None:
    """Pictures from `start` to `end` of the video; of a file of its own all its sound, of the film's own that part."""
    start, end = clip.start or 0.0, clip.end
    if end is not None and end - start > MOST_S:
        raise InputError(f"longer than {MOST_S:g} s")
    with av.open(str(draft), "w", format="mp4", options={"movflags": "+faststart"}) as sink:
        pictures = None if video is None else _Pictures(sink, video, clip)
        cut = (start, end) if audio == video else (0.0, None)
        sound = _Sound(sink, audio, *cut)
        if (pictures is None or pictures.stream is None) and sound.stream is None:
            raise InputError("neither picture nor sound")
        if pictures is not None:
            pictures.write(start, end)
        sound.write()


def _decoded(source, stream) -> Iterator[Any]:
    return source.decode(stream)


class _Pictures:
    """The video stream of the film and of the clip."""

    def __init__(self, sink, video: Path, clip: WebClip):
        self.sink, self.source = sink, av.open(str(video))
        found = [s for s in self.source.streams.video if s.codec_context is not None]
        self.stream: Any = None
        self.taken: Any = None
        if not found:
            return
        self.taken = found[0]
        width, height = self.taken.codec_context.width, self.taken.codec_context.height
        self.side = clip.side
        if self.side:
            width //= 2
        scale = min(1.0, HEIGHT / max(1, height))
        rate = self.taken.average_rate or Fraction(25)
        self.stream = sink.add_stream(
            "libx264", rate=min(rate, Fraction(60)), options={"preset": "veryfast", "crf": "25"}
        )
        self.stream.width, self.stream.height = (max(2, round(n * scale) // 2 * 2) for n in (width, height))
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.thread_count = 1
        self.stream.codec_context.time_base = Fraction(1, 90_000)

    def write(self, start: float, end: float | None) -> None:
        if self.stream is None:
            return
        if start > 1:
            self.source.seek(int(max(0.0, start - 1) * av.time_base))
        origin, last = None, -1
        for frame in _decoded(self.source, self.taken):
            if frame.time is None or frame.time < start - 1e-6:
                continue
            if end is not None and frame.time >= end:
                break
            origin = frame.time if origin is None else origin
            if frame.time - origin > MOST_S:
                raise InputError(f"longer than {MOST_S:g} s")
            at = round((frame.time - origin) * 90_000)
            if at > last:  # damaged files repeat times
                last = at
                self.sink.mux(self.stream.encode(self._picture(frame, at)))
        if origin is None:
            raise InputError("no picture between its start and end")
        self.sink.mux(self.stream.encode(None))

    def _picture(self, frame, at: int):
        if self.side:
            pixels = frame.to_ndarray(format="rgb24")
            half = pixels.shape[1] // 2
            part = pixels[:, :half] if self.side == "left" else pixels[:, half : 2 * half]
            frame = av.VideoFrame.from_ndarray(part.copy(), format="rgb24")
        made = frame.reformat(self.stream.width, self.stream.height, "yuv420p")
        made.pts, made.time_base = at, Fraction(1, 90_000)
        return made


class _Sound:
    """The audio stream of the source and of the clip; none where the source has none."""

    def __init__(self, sink, audio: Path, start: float, end: float | None):
        self.sink, self.start, self.end = sink, start, end
        self.source = av.open(str(audio))
        found = [s for s in self.source.streams.audio if s.codec_context is not None]
        self.stream: Any = None
        self.taken: Any = None
        if found:
            self.taken = found[0]
            self.stream = sink.add_stream("aac", rate=RATE, layout="mono", options={"aac_coder": "fast"})
            self.stream.bit_rate = 64_000

    def write(self) -> None:
        if self.stream is None:
            return
        resampler = av.AudioResampler("fltp", "mono", RATE)
        if self.start > 1:
            self.source.seek(int(max(0.0, self.start - 1) * av.time_base))
        written = 0
        for frame in _decoded(self.source, self.taken):
            time_ = frame.time or 0.0
            if time_ + frame.samples / max(1, frame.sample_rate) <= self.start:
                continue
            if self.end is not None and time_ >= self.end:
                break
            written += self._mux(resampler.resample(frame), written)
            if written > MOST_S * RATE:
                raise InputError(f"longer than {MOST_S:g} s")
        self._mux(resampler.resample(None), written)
        self.sink.mux(self.stream.encode(None))

    def _mux(self, frames, written: int) -> int:
        added = 0
        for frame in frames:
            frame.pts, frame.time_base = written + added, Fraction(1, RATE)
            added += frame.samples
            self.sink.mux(self.stream.encode(frame))
        return added


if __name__ == "__main__":
    _serve()
