"""Clips for browsers, looked at by decoding them again; and files that no decoder takes."""

import av
import numpy as np
import pytest

from storage.media.web_clip import WebClip, write_web_clips
from storage.sample.media import write_avi, write_mp4, write_wav

FPS = 10


def film(seconds: int) -> np.ndarray:
    """The left half gets brighter from second to second, the right half is always white."""
    frames = np.zeros((seconds * FPS, 48, 64, 3), dtype=np.uint8)
    for at, frame in enumerate(frames):
        frame[:, :32] = 40 * (at // FPS)
        frame[:, 32:] = 255
    return frames


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    tone = 0.3 * np.sin(np.arange(4 * 16_000) * 0.3)
    write_mp4(folder / "whole.mp4", film(2), FPS, tone[:32_000], 16_000, 1)
    write_avi(folder / "long.avi", film(4), FPS, 48, 64)
    write_wav(folder / "said.wav", tone[:16_000], 16_000)
    (folder / "broken.mp4").write_bytes(b"\0" * 5000)
    (folder / "cut.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:700])
    (folder / "empty.mp4").write_bytes(b"")
    return folder


def looked_at(path) -> dict:
    with av.open(str(path)) as found:
        video, audio = found.streams.video, found.streams.audio
        codecs = [s.codec_context.name for s in found.streams]
        sound = sum(frame.samples for frame in found.decode(audio[0])) / audio[0].rate if audio else 0.0
    with av.open(str(path)) as found:
        pictures = [f.to_ndarray(format="rgb24") for f in found.decode(video=0)] if video else []
    return {"codecs": codecs, "sound": sound, "pictures": pictures}


def test_what_browsers_play_is_copied_and_all_else_is_made_so(raw, tmp_path):
    def clip(name, video, audio, **part):
        return WebClip(str(raw), video, audio, str(tmp_path / name), **part)

    clips = [
        clip("a/copied.mp4", "whole.mp4", "whole.mp4"),
        clip("broken.mp4", "broken.mp4", None),
        clip("part.mp4", "long.avi", "said.wav", start=2.0, end=3.0, side="left"),
        clip("missing.mp4", "none.mp4", None),
        clip("heard.mp4", None, "said.wav"),
        clip("empty.mp4", "empty.mp4", "empty.mp4"),
        clip("none.mp4", None, None),
        clip("cut.mp4", "cut.mp4", "cut.mp4"),
        clip("late.mp4", "long.avi", None, start=9.0, end=10.0),
        clip("own.mp4", "whole.mp4", "whole.mp4", start=1.0, end=2.0),
    ]
    outcomes = list(write_web_clips(clips, timeout_s=60))
    shown = [clip.target.rsplit("/", 1)[1] for clip, why in zip(clips, outcomes, strict=True) if why is None]
    assert shown == ["copied.mp4", "part.mp4", "heard.mp4", "own.mp4"], outcomes
    assert outcomes[3] == "no such file" and outcomes[6] == "neither picture nor sound"
    assert outcomes[8] == "no picture between its start and end" and all(
        "\n" not in (o or "") for o in outcomes
    )
    assert sorted(p.name for p in tmp_path.rglob("*.mp4")) == sorted(shown)
    assert (tmp_path / "a/copied.mp4").read_bytes() == (raw / "whole.mp4").read_bytes()
    part = looked_at(tmp_path / "part.mp4")
    assert part["codecs"] == ["h264", "aac"] and part["sound"] == pytest.approx(1.0, abs=0.1)
    assert len(part["pictures"]) == FPS and part["pictures"][0].shape == (48, 32, 3)
    assert np.mean(part["pictures"][5]) == pytest.approx(80, abs=8)  # the third second, and no white half
    heard = looked_at(tmp_path / "heard.mp4")
    assert heard["codecs"] == ["aac"] and heard["sound"] == pytest.approx(1.0, abs=0.1)
    own = looked_at(tmp_path / "own.mp4")
    assert own["sound"] == pytest.approx(1.0, abs=0.15) and len(own["pictures"]) == FPS


def test_a_file_that_takes_too_long_costs_itself_alone(raw, tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.mp4")
    clips = [
        WebClip(str(tmp_path), "pipe.mp4", "pipe.mp4", str(tmp_path / "out/1.mp4")),
        WebClip(str(raw), "whole.mp4", "whole.mp4", str(tmp_path / "out/2.mp4")),
    ]
    first, second = write_web_clips(clips, timeout_s=15)
    assert first == "not ready within 15 s" and second is None
