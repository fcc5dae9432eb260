"""Probing against clips of known make, and against soundfile's own reading of real headers."""

import numpy as np
import pytest
import soundfile

from storage.media.container import MediaError, MediaFile
from storage.media.probe import probe as probe_file


def probe(path):
    with MediaFile(path) as file:
        return probe_file(file)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"bf": "2"}),
        ("a.mkv", {}),
        ("a.avi", {"codec": "mpeg4", "bf": "1"}),
        ("a.flv", {"codec": "flv"}),
    ],
)
def test_lengths_sizes_and_rates(film, tmp_path, name, options):
    sound = (np.stack([film.tone(44_100, 3)] * 2), 44_100, "stereo")
    pictures = [film.coded(n) for n in range(75)]
    path = film.write_video(tmp_path / name, pictures, sound=sound, **options)
    found = probe(path)
    assert (found.video.width, found.video.height, found.video.frames) == (128, 128, 75)
    assert found.video.rate == pytest.approx(25) and found.video.seconds == pytest.approx(3, abs=0.05)
    assert (found.audio.rate, found.audio.channels) == (44_100, 2)
    assert found.audio.seconds == pytest.approx(3, abs=0.1)
    assert found.size == path.stat().st_size and found.seconds == pytest.approx(3, abs=0.1)


def test_six_channels_are_told(film, tmp_path):
    sound = (np.zeros((6, 48_000), np.float32), 48_000, "5.1")
    found = probe(film.write_video(tmp_path / "a.mp4", [film.coded(0)], sound=sound))
    assert (found.audio.channels, found.audio.layout) == (6, "5.1")


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_wav_agrees_with_soundfile(film, tmp_path, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, film.tone(rate, 1.7), rate)
    told, found = soundfile.info(path), probe(path)
    assert found.video is None and found.timeline is None
    assert (found.audio.rate, found.audio.channels) == (told.samplerate, told.channels)
    assert found.audio.seconds == pytest.approx(told.duration, abs=1e-3)


def test_a_header_that_lies_is_not_believed(film, tmp_path):
    """An mp4 cut off behind its index still says three seconds; the packets that are left say how much there is."""
    pictures = [np.random.default_rng(n).integers(0, 255, (128, 128, 3), np.uint8) for n in range(75)]
    options = {"container": {"movflags": "faststart"}}
    whole = film.write_video(tmp_path / "a.mp4", pictures, **options)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert probe(whole).video.frames == 75
    assert 20 < probe(cut).video.frames < 60 and probe(cut).video.seconds < 2.5


def test_a_file_of_neither_kind(tmp_path):
    subtitles = tmp_path / "a.srt"
    subtitles.write_text("1\n00:00:00,000 --> 00:00:01,000\nHi\n")
    with pytest.raises(MediaError) as error:
        probe(subtitles)
    assert error.value.reason == "corrupt"
