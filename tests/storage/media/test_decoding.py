"""Decoding against clips whose every frame carries its number, and sounds of known samples."""

import pickle
import tarfile
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile

from storage.media.clip import Request, decode_clip
from storage.media.container import MediaError
from storage.media.pictures import Window

SHARED = Path(__file__).resolve().parents[3] / "../shared/data/multidialog_demo"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain.mp4", {}),
        ("b.mp4", {"bf": "3"}),
        ("divx.avi", {"codec": "mpeg4"}),
        ("divx_b.avi", {"codec": "mpeg4", "bf": "1"}),
        ("b.mkv", {"bf": "2"}),
        ("flash.flv", {"codec": "flv", "b": "4000000"}),
    ],
)
def test_frames_are_exact(film, tmp_path, name, options):
    path = film.write_video(tmp_path / name, [film.coded(n) for n in range(90)], **options)
    for seed in range(3):
        frames = film.decode_frames(path, count=8, seed=seed, size=64)
        assert frames.shape == (8, 64, 64, 3) and frames.dtype == np.uint8
        assert film.numbers(frames) == film.expected_numbers(0, 90, 8, seed)


@pytest.mark.parametrize("name", ["span.avi", "span.mp4"])
def test_a_span_is_cut_by_time(film, tmp_path, name):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    path = film.write_video(tmp_path / name, [film.coded(n) for n in range(100)], codec=codec, bf="1")
    # 25 frames a second: frame n is shown from n / 25 s on.
    frames = film.decode_frames(path, count=8, seed=0, start=1.0, end=2.0, size=64)
    assert film.numbers(frames) == film.expected_numbers(25, 50, 8, 0)
    # Five frames for eight places: repeats, and nothing from outside.
    short = film.numbers(film.decode_frames(path, count=8, seed=1, start=2.0, end=2.2, size=64))
    assert set(short) <= set(range(50, 55))
    with pytest.raises(MediaError) as error:
        film.decode_frames(path, start=60.0, end=61.0)
    assert error.value.reason == "corrupt"


def test_a_span_of_a_variable_rate_is_cut_by_time(film, tmp_path):
    steps = [*range(20), *range(20, 100, 4)]  # every frame for 0.8 s, then every fourth
    path = film.write_video(tmp_path / "variable.mp4", [film.coded(n) for n in range(40)], steps=steps)
    assert film.numbers(film.decode_frames(path, 4, 0, start=0.8, end=2.4, size=64)) == film.expected_numbers(
        20, 30, 4, 0
    )


def test_turned_pictures_are_set_upright(film, tmp_path):
    path = film.turned(film.write_video(tmp_path / "phone.mp4", [film.sideways(n) for n in range(20)]))
    assert film.numbers(film.decode_frames(path, 4, 0, size=64)) == film.expected_numbers(0, 20, 4, 0)


def test_the_halves_of_turned_pictures(film, tmp_path):
    pictures = [np.concatenate([film.coded(n), film.coded(n + 500)], axis=1) for n in range(20)]
    path = film.turned(film.write_video(tmp_path / "phone.mp4", [np.rot90(p).copy() for p in pictures]))
    left, right = (film.numbers(film.decode_frames(path, 4, 7, side=s, size=128)) for s in ("left", "right"))
    assert left == film.expected_numbers(0, 20, 4, 7) and right == [n + 500 for n in left]


def test_windows_of_one_pass_equal_single_calls(film, tmp_path):
    path = film.write_video(
        tmp_path / "dialog.avi", [film.coded(n) for n in range(100)], codec="mpeg4", bf="1"
    )
    windows = [Window(3, 0.5, 1.0), Window(4, 2.0, 3.5), Window(5, 50, 60), Window(6, 0.0, 3.9)]
    request = Request("/", str(path), None, tuple(windows), size=64, max_seconds=3)
    first, second, outside, long = decode_clip(request).frames
    np.testing.assert_array_equal(first, film.decode_frames(path, 8, 3, 0.5, 1.0, size=64))
    np.testing.assert_array_equal(second, film.decode_frames(path, 8, 4, 2.0, 3.5, size=64))
    assert (outside.reason, long.reason) == ("corrupt", "too_long")


def test_sides(film, tmp_path):
    pictures = [np.concatenate([film.coded(n), film.coded(n + 500)], axis=1) for n in range(40)]
    path = film.write_video(tmp_path / "two.avi", pictures, codec="mpeg4", qscale="2")
    left, right = (film.decode_frames(path, 4, 7, side=side, size=128) for side in ("left", "right"))
    assert film.numbers(right) == [n + 500 for n in film.numbers(left)]


def test_wide_pictures_are_cut_to_the_centre_square(film, tmp_path):
    border = np.full((128, 40, 3), 128, np.uint8)
    pictures = [np.concatenate([border, film.coded(n), border], axis=1) for n in range(20)]
    path = film.write_video(tmp_path / "wide.mp4", pictures)
    assert film.numbers(film.decode_frames(path, 4, 0, size=128)) == film.expected_numbers(0, 20, 4, 0)


def test_short_clips_repeat_frames(film, tmp_path):
    path = film.write_video(tmp_path / "two.mp4", [film.coded(1), film.coded(2)])
    assert set(film.numbers(film.decode_frames(path, 8, 0, size=64))) <= {1, 2}


def test_truncated_files(film, tmp_path):
    pictures = [film.coded(n) for n in range(60)]
    whole = film.write_video(tmp_path / "whole.mp4", pictures).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])  # the index at the end is gone
    for decode in (film.decode_frames, film.decode_sound):
        with pytest.raises(MediaError) as error:
            decode(cut)
        assert error.value.reason == "corrupt" and "cut.mp4" in str(error.value)
    front = film.write_video(
        tmp_path / "front.mp4", pictures, container={"movflags": "faststart"}
    ).read_bytes()
    cut.write_bytes(front[: len(front) * 2 // 3])
    found = film.numbers(film.decode_frames(cut, 8, 0, size=64))
    assert found == sorted(found) and 0 < max(found) < 60


def test_reasons(film, tmp_path):
    silent = film.write_video(tmp_path / "silent.mp4", [film.coded(n) for n in range(5)])
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, film.tone(16_000), 16_000)
    nothing = tmp_path / "nothing.wav"
    soundfile.write(nothing, np.zeros(16_000), 16_000)
    empty, pointer = tmp_path / "empty.mp4", tmp_path / "pointer.mp4"
    empty.write_bytes(b"")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    cases = [
        (film.decode_sound, silent, "no_audio"),
        (film.decode_frames, sound, "no_video"),
        (film.decode_sound, empty, "empty"),
        (film.decode_frames, pointer, "corrupt"),
        (film.decode_sound, tmp_path / "absent.wav", "missing"),
        (film.decode_frames, tmp_path, "corrupt"),
        (film.decode_sound, nothing, "silent"),
        (lambda path: film.decode_sound(path, max_seconds=0.5), sound, "too_long"),
        (lambda path: film.decode_frames(path, max_seconds=0.1), silent, "too_long"),
    ]
    for decode, path, reason in cases:
        with pytest.raises(MediaError) as error:
            decode(path)
        assert error.value.reason == reason
        copy = pickle.loads(pickle.dumps(error.value))  # decoding runs in child processes
        assert (copy.reason, str(copy)) == (reason, str(error.value))


def test_wav_at_16_khz_is_untouched(film, tmp_path):
    sound = film.tone(16_000)
    soundfile.write(tmp_path / "a.wav", sound, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(film.decode_sound(tmp_path / "a.wav"), sound)


def test_stereo_equals_librosa(film, tmp_path):
    stereo = np.stack([film.tone(44_100), film.tone(44_100, pitch=600, level=0.1)])
    path = tmp_path / "stereo.wav"
    soundfile.write(path, stereo.T, 44_100)
    expected, _ = librosa.load(path, sr=16_000, mono=True)
    np.testing.assert_allclose(film.decode_sound(path), expected, atol=2e-5)


@pytest.mark.parametrize(("layout", "channels", "speech"), [("stereo", 2, (0, 1)), ("5.1", 6, (2,))])
def test_the_level_survives_the_downmix(film, tmp_path, layout, channels, speech):
    sound = np.zeros((channels, 48_000), np.float32)
    for channel in speech:
        sound[channel] = film.tone(48_000)
    path = film.write_video(tmp_path / "a.mp4", [film.coded(0)] * 25, sound=(sound, 48_000, layout))
    middle = film.decode_sound(path)[4_000:12_000]
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_a_clip_is_what_its_files_are(film, tmp_path):
    path = film.write_video(
        tmp_path / "a.mp4",
        [film.coded(n) for n in range(25)],
        sound=(film.tone(16_000)[None], 16_000, "mono"),
    )
    window = (Window(0),)
    both = decode_clip(Request(str(tmp_path), "a.mp4", "a.mp4", window, count=4, size=32))
    assert both.frames[0].shape == (4, 32, 32, 3) and both.audio.dtype == np.float32
    assert both.seconds == len(both.audio) / 16_000 == pytest.approx(1, abs=0.1)
    seen = decode_clip(Request(str(tmp_path), "a.mp4", None, window, count=4, size=32))
    assert seen.audio is None and seen.seconds == pytest.approx(1, abs=1e-6)  # 25 frames, 25 a second
    np.testing.assert_array_equal(both.frames[0], seen.frames[0])
    heard = decode_clip(Request(str(tmp_path), None, "a.mp4"))
    assert heard.frames == ()
    np.testing.assert_array_equal(both.audio, heard.audio)
    video, audio = both.facts["video"], both.facts["audio"]
    assert (video["codec"], video["width"], video["height"], video["rate"]) == ("h264", 128, 128, 25)
    assert (audio["codec"], audio["rate"], audio["channels"], audio["mono"]) == ("aac", 16_000, 1, "as it is")
    # A sine of 0.3 is 0.3 / sqrt(2) in the mean square: -13.5 dB.
    assert audio["level_db"] == pytest.approx(-13.5, abs=0.5)  # the coder adds a little silence
    assert video["bytes"] == path.stat().st_size
    assert video["frames"] == 25 and "decoder" in video


def test_silence_in_the_centre_is_told_as_that(film, tmp_path):
    sound = np.zeros((6, 48_000), np.float32)
    sound[0] = film.tone(48_000)  # front left alone
    path = film.write_video(tmp_path / "a.mp4", [film.coded(0)], sound=(sound, 48_000, "5.1"))
    with pytest.raises(MediaError, match="no sound in its centre channel"):
        film.decode_sound(path)


def test_a_stream_of_absurdly_many_channels_is_refused(film, tmp_path):
    """Found by damaging files: PyAV reads more than eight planes from memory that is not theirs, and dies."""
    soundfile.write(tmp_path / "a.wav", np.full((4_000, 24), 0.1), 16_000)
    with pytest.raises(MediaError, match="24 channels") as error:
        film.decode_sound(tmp_path / "a.wav")
    assert error.value.reason == "corrupt"


def test_errors_name_the_file_as_it_was_asked_for(film, tmp_path):
    film.write_video(tmp_path / "a.mp4", [film.coded(0)])
    with pytest.raises(MediaError) as error:
        decode_clip(Request(str(tmp_path), None, "a.mp4"))
    assert str(error.value) == "a.mp4: no audio stream"


def test_a_member_of_an_archive_is_decoded_where_it_lies(film, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where archives are indexed
    soundfile.write(tmp_path / "a.wav", film.tone(44_100), 44_100)
    with tarfile.open(tmp_path / "chunks.tar.gz", "w:gz") as archive:
        for name in ("first.wav", "t_x/t_x_0k.wav"):
            archive.add(tmp_path / "a.wav", name)
    plain, member = (Request(str(tmp_path), None, p) for p in ("a.wav", "chunks.tar.gz::t_x/t_x_0k.wav"))
    np.testing.assert_array_equal(decode_clip(plain).audio, decode_clip(member).audio)
    with pytest.raises(MediaError) as error:
        decode_clip(Request(str(tmp_path), None, "chunks.tar.gz::absent.wav"))
    assert error.value.reason == "missing" and str(error.value).startswith("chunks.tar.gz::absent.wav: ")


def test_what_is_too_long_is_not_decoded(film, tmp_path):
    path = film.write_video(
        tmp_path / "long.mp4", [film.coded(0)], sound=(film.tone(16_000, 40)[None], 16_000, "mono")
    )
    with pytest.raises(MediaError) as error:
        film.decode_sound(path, max_seconds=30)
    assert error.value.reason == "too_long" and "40." in str(
        error.value
    )  # its real length: not cut off at 30 s


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared MultiDialog demo clips are not here")
def test_real_clips():
    names = sorted(path.name for path in SHARED.glob("*.mp4"))
    assert len(names) == 12
    for name in names:
        clip = decode_clip(Request(str(SHARED), name, name, (Window(0),), count=2))
        with av.open(str(SHARED / name)) as container:
            seconds = container.duration / 1e6
        assert abs(clip.seconds - seconds) < 0.2
        assert 0.05 < np.abs(clip.audio).max() <= 1.1
        assert clip.frames[0].shape == (2, 224, 224, 3) and clip.frames[0].std() > 10
        video, audio = clip.facts["video"], clip.facts["audio"]
        # What the project page's clips are, by ffprobe: 25 frames a second, H.264 at 900x700, stereo AAC.
        assert (video["codec"], video["width"], video["height"], video["rate"]) == ("h264", 900, 700, 25)
        assert (audio["codec"], audio["channels"], audio["mono"]) == ("aac", 2, "mean")
        assert audio["rate"] == (48_000 if "_user1" in name else 44_100)
        assert video["seconds"] == pytest.approx(seconds, abs=0.05)
