"""On which files decord's frames are the right ones, and that the decord backend is right on all of them.

Each file's frames carry their numbers, so a wrong frame shows. PyAV is held to the same files beside it.
"""

from pathlib import Path

import av
import numpy as np
import pytest

from storage.media.clip import Request, decode_clip
from storage.media.pictures import Window

decord = pytest.importorskip("decord", reason="decord is not installed: its backend is optional")

DEMO = Path(__file__).resolve().parents[3] / "../shared/data/multidialog_demo"
COUNT = 90
RIGHT, WRONG = "right", "wrong"
FILES = {
    # name: (how it is made, what decord itself gives, who decodes it when decord is asked for)
    "plain.mp4": ({}, RIGHT, "decord"),
    "b.mp4": ({"bf": "3"}, RIGHT, "decord"),
    "fast.mp4": ({"bf": "2", "container": {"movflags": "faststart"}}, RIGHT, "decord"),
    "variable.mp4": ({"steps": [*range(45), *range(45, 225, 4)]}, RIGHT, "decord"),
    "b.mkv": ({"bf": "2"}, RIGHT, "pyav"),
    "divx.avi": ({"codec": "mpeg4"}, RIGHT, "pyav"),
    "divx_b.avi": ({"codec": "mpeg4", "bf": "1"}, WRONG, "pyav"),
    "divx_b.mp4": ({"codec": "mpeg4", "bf": "1"}, RIGHT, "pyav"),
}


@pytest.fixture(scope="module")
def folder(film, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name, (options, _, _) in FILES.items():
        film.write_video(folder / name, [film.coded(n) for n in range(COUNT)], **options)
    film.write_video(folder / "whole.mp4", [film.coded(n) for n in range(COUNT)], bf="2", g="30")
    film.turned(film.write_video(folder / "turned.mp4", [film.sideways(n) for n in range(COUNT)]))
    copy_from(folder / "whole.mp4", folder / "cut.mp4", start=40)
    return folder


def copy_from(source: Path, target: Path, start: int) -> None:
    """A cut without decoding, as `ffmpeg -ss -c copy` makes: from the key frame before, the surplus hidden."""
    with av.open(str(source)) as whole, av.open(str(target), "w") as cut:
        stream = whole.streams.video[0]
        copy = cut.add_stream_from_template(stream)
        shift = round(start / 25 / stream.time_base)
        whole.seek(shift, stream=stream)
        for packet in whole.demux(stream):
            if packet.size:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                cut.mux(packet)


def by_decord(film, path: Path, wanted: list[int]) -> list[int]:
    """Numbers on the frames that decord gives when asked for `wanted`, one by one as a sampler asks."""
    reader = decord.VideoReader(str(path), num_threads=1)
    return [film.number_of(picture) for picture in reader.get_batch(wanted).asnumpy()]


@pytest.mark.parametrize("name", FILES)
def test_what_decord_gives(film, folder, name):
    _, verdict, _ = FILES[name]
    wanted = [5, 17, 18, 40, 41, 66, 80, 89]
    assert (by_decord(film, folder / name, wanted) == wanted) == (verdict == RIGHT)


def test_decord_repeats_the_tail_of_a_stream_copied_cut(film, folder):
    reader = decord.VideoReader(str(folder / "cut.mp4"), num_threads=1)
    assert len(reader) > 50  # it counts the hidden frames too
    found = by_decord(film, folder / "cut.mp4", list(range(len(reader))))
    assert found != list(range(40, 40 + len(reader)))


@pytest.mark.parametrize("name", [*FILES, "cut.mp4", "turned.mp4"])
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_either_backend_is_right_on_every_file(film, folder, name, decoder):
    first, last = (40, COUNT) if name == "cut.mp4" else (0, COUNT)
    asked = Request(
        str(folder), name, None, tuple(Window(seed) for seed in range(4)), size=64, decoder=decoder
    )
    clip = decode_clip(asked)
    for seed, frames in enumerate(clip.frames):
        assert film.numbers(frames) == film.expected_numbers(first, last, 8, seed)
    _, _, who = FILES.get(name, ({}, WRONG, "decord" if name == "turned.mp4" else "pyav"))
    assert clip.facts["video"]["decoder"] == (who if decoder == "decord" else "pyav")


def test_both_backends_find_the_same_frames_in_a_damaged_file(film, folder):
    whole = (folder / "fast.mp4").read_bytes()
    (folder / "damaged.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    both = [
        decode_clip(Request(str(folder), "damaged.mp4", None, (Window(0),), size=64, decoder=decoder))
        for decoder in ("pyav", "decord")
    ]
    assert film.numbers(both[0].frames[0]) == film.numbers(both[1].frames[0])


@pytest.mark.skipif(not DEMO.is_dir(), reason="the shared MultiDialog demo clips are not here")
def test_real_clips_look_the_same(film):
    """The two convert colours by different code, so the pictures agree nearly, and other frames do not."""
    for path in sorted(DEMO.glob("*.mp4"))[:4]:
        first, second = (
            decode_clip(Request(str(DEMO), path.name, None, (Window(0),), decoder=decoder))
            for decoder in ("pyav", "decord")
        )
        assert second.facts["video"]["decoder"] == "decord"
        apart = np.abs(first.frames[0].astype(int) - second.frames[0].astype(int)).mean(axis=(1, 2, 3))
        assert apart.max() < 2
