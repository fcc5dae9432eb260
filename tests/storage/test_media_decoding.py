"""Decoding against clips whose every frame carries its number, and sounds of known samples."""

import pickle
from fractions import Fraction
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile

from storage.media import MediaError, Window, decode_audio, decode_clip, decode_frames, decode_windows

SHARED = Path(__file__).resolve().parents[2] / "../shared/data/multidialog_demo"
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


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain.mp4", {}),
        ("b.mp4", {"bf": "3"}),
        ("divx.avi", {"codec": "mpeg4"}),
        ("divx_b.avi", {"codec": "mpeg4", "bf": "1"}),
        ("b.mkv", {"bf": "2"}),
    ],
)
def test_frames_are_exact(tmp_path, name, options):
    path = write_video(tmp_path / name, [coded(n) for n in range(90)], **options)
    for seed in range(3):
        frames = decode_frames(path, count=8, seed=seed, size=64)
        assert frames.shape == (8, 64, 64, 3) and frames.dtype == np.uint8
        assert numbers(frames) == expected_numbers(0, 90, 8, seed)


@pytest.mark.parametrize("name", ["span.avi", "span.mp4"])
def test_a_span_is_cut_by_time(tmp_path, name):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = write_video(tmp_path / name, [coded(n) for n in range(100)], codec=codec, bf="1")
    # 25 frames a second: frame n is shown from n / 25 s on.
    frames = decode_frames(path, count=8, seed=0, start=1.0, end=2.0, size=64)
    assert numbers(frames) == expected_numbers(25, 50, 8, 0)
    # Five frames for eight places: repeats, and nothing from outside.
    short = numbers(decode_frames(path, count=8, seed=1, start=2.0, end=2.2, size=64))
    assert set(short) <= set(range(50, 55))
    with pytest.raises(MediaError) as error:
        decode_frames(path, start=60.0, end=61.0)
    assert error.value.reason == "corrupt"


def test_a_span_of_a_variable_rate_is_cut_by_time(tmp_path):
    steps = [*range(20), *range(20, 100, 4)]  # every frame for 0.8 s, then every fourth
    path = write_video(tmp_path / "variable.mp4", [coded(n) for n in range(40)], steps=steps)
    assert numbers(decode_frames(path, 4, 0, start=0.8, end=2.4, size=64)) == expected_numbers(20, 30, 4, 0)


def test_turned_pictures_are_set_upright(tmp_path):
    # Filmed upright by a turned camera: stored turned left, with the instruction to show it turned right.
    path = write_video(tmp_path / "phone.mp4", [np.rot90(coded(n)).copy() for n in range(20)])
    one, turn = 0x10000, np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0x4000]]) * 0x10000
    matrices = [np.array([[one, 0, 0], [0, one, 0], [0, 0, 0x4000 * one]]), turn]
    identity, turned = (matrix.astype(">i4").tobytes() for matrix in matrices)
    content = path.read_bytes()
    at = content.index(identity, content.index(b"tkhd"))
    path.write_bytes(content[:at] + turned + content[at + len(turned) :])
    assert numbers(decode_frames(path, 4, 0, size=64)) == expected_numbers(0, 20, 4, 0)


def test_windows_of_one_pass_equal_single_calls(tmp_path):
    path = write_video(tmp_path / "dialog.avi", [coded(n) for n in range(100)], codec="mpeg4", bf="1")
    windows = [Window(3, 0.5, 1.0), Window(4, 2.0, 3.5), Window(5, 50, 60), Window(6, 0.0, 3.9)]
    first, second, outside, long = decode_windows(path, windows, 8, 64, max_seconds=3)
    np.testing.assert_array_equal(first, decode_frames(path, 8, 3, 0.5, 1.0, size=64))
    np.testing.assert_array_equal(second, decode_frames(path, 8, 4, 2.0, 3.5, size=64))
    assert (outside.reason, long.reason) == ("corrupt", "too_long")


def test_sides(tmp_path):
    pictures = [np.concatenate([coded(n), coded(n + 500)], axis=1) for n in range(40)]
    path = write_video(tmp_path / "two.avi", pictures, codec="mpeg4", qscale="2")
    left, right = (decode_frames(path, 4, 7, side=side, size=128) for side in ("left", "right"))
    assert numbers(right) == [n + 500 for n in numbers(left)]


def test_wide_pictures_are_cut_to_the_centre_square(tmp_path):
    border = np.full((128, 40, 3), 128, np.uint8)
    pictures = [np.concatenate([border, coded(n), border], axis=1) for n in range(20)]
    path = write_video(tmp_path / "wide.mp4", pictures)
    assert numbers(decode_frames(path, 4, 0, size=128)) == expected_numbers(0, 20, 4, 0)


def test_short_clips_repeat_frames(tmp_path):
    path = write_video(tmp_path / "two.mp4", [coded(1), coded(2)])
    assert set(numbers(decode_frames(path, 8, 0, size=64))) <= {1, 2}


def test_truncated_files(tmp_path):
    pictures = [coded(n) for n in range(60)]
    whole = write_video(tmp_path / "whole.mp4", pictures).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])  # the index at the end is gone
    for decode in (decode_frames, decode_audio):
        with pytest.raises(MediaError) as error:
            decode(cut)
        assert error.value.reason == "corrupt" and "cut.mp4" in str(error.value)
    front = write_video(tmp_path / "front.mp4", pictures, container={"movflags": "faststart"}).read_bytes()
    cut.write_bytes(front[: len(front) * 2 // 3])
    found = numbers(decode_frames(cut, 8, 0, size=64))
    assert found == sorted(found) and 0 < max(found) < 60


def test_reasons(tmp_path):
    silent = write_video(tmp_path / "silent.mp4", [coded(n) for n in range(5)])
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, tone(16_000), 16_000)
    empty, pointer = tmp_path / "empty.mp4", tmp_path / "pointer.mp4"
    empty.write_bytes(b"")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    cases = [
        (decode_audio, silent, "no_audio"),
        (decode_frames, sound, "no_video"),
        (decode_audio, empty, "empty"),
        (decode_frames, pointer, "corrupt"),
        (decode_audio, tmp_path / "absent.wav", "missing"),
        (decode_frames, tmp_path, "missing"),
        (lambda path: decode_audio(path, max_seconds=0.5), sound, "too_long"),
        (lambda path: decode_frames(path, max_seconds=0.1), silent, "too_long"),
    ]
    for decode, path, reason in cases:
        with pytest.raises(MediaError) as error:
            decode(path)
        assert error.value.reason == reason
        copy = pickle.loads(pickle.dumps(error.value))  # decoding runs in child processes
        assert (copy.reason, str(copy)) == (reason, str(error.value))


def test_wav_at_16_khz_is_untouched(tmp_path):
    sound = tone(16_000)
    soundfile.write(tmp_path / "a.wav", sound, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(decode_audio(tmp_path / "a.wav"), sound)


def test_stereo_equals_librosa(tmp_path):
    stereo = np.stack([tone(44_100), tone(44_100, pitch=600, level=0.1)])
    path = tmp_path / "stereo.wav"
    soundfile.write(path, stereo.T, 44_100)
    expected, _ = librosa.load(path, sr=16_000, mono=True)
    np.testing.assert_allclose(decode_audio(path), expected, atol=2e-5)


@pytest.mark.parametrize(("layout", "channels", "speech"), [("stereo", 2, (0, 1)), ("5.1", 6, (2,))])
def test_the_level_survives_the_downmix(tmp_path, layout, channels, speech):
    sound = np.zeros((channels, 48_000), np.float32)
    for channel in speech:
        sound[channel] = tone(48_000)
    path = write_video(tmp_path / "a.mp4", [coded(0)] * 25, sound=(sound, 48_000, layout))
    middle = decode_audio(path)[4_000:12_000]
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_decode_clip_takes_what_is_there(tmp_path):
    path = write_video(
        tmp_path / "a.mp4", [coded(n) for n in range(25)], sound=(tone(16_000)[None], 16_000, "mono")
    )
    both = decode_clip(path, path, seed=0, count=4, size=32)
    assert both.frames.shape == (4, 32, 32, 3) and both.audio.dtype == np.float32
    assert decode_clip(path, None, seed=0).audio is None
    assert decode_clip(None, path, seed=0).frames is None
    np.testing.assert_array_equal(both.frames, decode_clip(path, path, seed=0, count=4, size=32).frames)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared MultiDialog demo clips are not here")
def test_real_clips():
    clips = sorted(SHARED.glob("*.mp4"))
    assert len(clips) == 12
    for path in clips:
        clip = decode_clip(path, path, seed=0, count=2)
        with av.open(str(path)) as container:
            seconds = container.duration / 1e6
        assert abs(len(clip.audio) / 16_000 - seconds) < 0.2
        assert 0.05 < np.abs(clip.audio).max() <= 1.1
        assert clip.frames.shape == (2, 224, 224, 3) and clip.frames.std() > 10
