"""The actor can be read by simple measurements, from the sound alone and from the picture alone."""

import numpy as np
import pytest

from storage.sample.actor import LONGEST, RATE, SHORTEST, duration, loudness, voice
from storage.sample.face import EXPRESSIONS, face
from storage.utterance import EMOTIONS

TEXTS = ("I never thought it would come to this.", "Look at that, over there, beside the door!")
TAKES = 12  # per emotion; the first half is learned, the second half is guessed
FRAMES = 5


def takes():
    for number, emotion in enumerate(EMOTIONS):
        for take in range(TAKES):
            yield number, take < TAKES // 2, emotion, f"speaker {take % 3}", 1000 * number + take


def half_guessed_right(features, labels, learn):
    """Share of the other half that a nearest-centroid rule gets right, on standardised features."""
    features = (features - features[learn].mean(axis=0)) / (features[learn].std(axis=0) + 1e-9)
    centres = np.stack([features[learn & (labels == n)].mean(axis=0) for n in range(len(EMOTIONS))])
    distance = ((features[~learn][:, None] - centres) ** 2).sum(axis=-1)
    return (distance.argmin(axis=1) == labels[~learn]).mean()


def pitch_and_energy(samples):
    """Mean and spread of pitch by autocorrelation, energy, brightness and length."""
    starts = range(0, len(samples) - 640, 320)
    windows = np.stack([samples[start : start + 640] for start in starts])
    level = np.sqrt((windows**2).mean(axis=1))
    spectrum = np.abs(np.fft.rfft(windows[level > 0.4 * level.max()] * np.hanning(640), 2048)) ** 2
    lags = np.fft.irfft(spectrum)[:, 40:230].argmax(axis=1) + 40
    octaves = np.log2(RATE / lags)
    bright = np.log(spectrum[:, 200:].sum() / spectrum[:, :200].sum())
    return [octaves.mean(), octaves.std(), np.log(level.mean()), bright, len(samples)]


def brows_eyes_and_mouth(film):
    """Darkness of small cells over the brows, the eyes and the mouth, averaged over the frames."""
    grey = film.astype(float).mean(axis=(0, 3))
    cells = [grey[y : y + 8, x : x + 12].mean() for y in range(66, 114, 8) for x in range(64, 160, 12)]
    cells += [grey[y : y + 8, x : x + 12].mean() for y in range(140, 180, 8) for x in range(76, 148, 12)]
    return np.array(cells) - np.mean(cells)


def test_voice_is_sound_of_the_planned_length():
    for text in ("Go away from here!", " ".join(TEXTS * 3)):
        samples = voice(text, "sad", "Ses01F", 5)
        assert samples.dtype == np.float32 and samples.ndim == 1
        assert np.abs(samples).max() <= 1.0
        assert SHORTEST <= len(samples) / RATE <= LONGEST
        assert len(samples) / RATE == duration(text, "sad", 5)


def test_voice_depends_on_its_arguments_alone():
    first = voice(TEXTS[0], "happy", "Ada", 3)
    assert np.array_equal(first, voice(TEXTS[0], "happy", "Ada", 3))
    for other in ((TEXTS[0], "sad", "Ada", 3), (TEXTS[0], "happy", "Bo", 3), (TEXTS[0], "happy", "Ada", 4)):
        assert not np.array_equal(first[:RATE], voice(*other)[:RATE])


def test_women_of_iemocap_speak_higher():
    high, low = (pitch_and_energy(voice(TEXTS[0], "neutral", f"Ses02{g}", 1))[0] for g in "FM")
    assert high > low + 0.3


def test_emotion_is_heard():
    rows = [(n, half, pitch_and_energy(voice(TEXTS[s % 2], e, who, s))) for n, half, e, who, s in takes()]
    labels, learn, features = (np.array(column) for column in zip(*rows, strict=True))
    assert half_guessed_right(features, labels, learn) > 2 / len(EMOTIONS)


def test_emotion_is_seen():
    still = np.zeros(FRAMES)
    rows = [(n, half, brows_eyes_and_mouth(face(e, who, s, FRAMES, still))) for n, half, e, who, s in takes()]
    labels, learn, features = (np.array(column) for column in zip(*rows, strict=True))
    assert half_guessed_right(features, labels, learn) > 2 / len(EMOTIONS)


def test_face_is_deterministic_film():
    film = face("surprise", "Ada", 1, FRAMES, np.linspace(0, 1, FRAMES))
    assert film.dtype == np.uint8 and film.shape == (FRAMES, 224, 224, 3)
    assert np.array_equal(film, face("surprise", "Ada", 1, FRAMES, np.linspace(0, 1, FRAMES)))
    assert set(EXPRESSIONS) == set(EMOTIONS)


def test_mouth_follows_loudness():
    def dark_mouth(loud):
        film = face("neutral", "Ada", 2, 1, np.array([loud]))
        return (film[0, 140:190, 80:144].sum(axis=-1) < 200).sum()

    assert dark_mouth(1.0) > dark_mouth(0.0) + 50


def test_listener_rests():
    quiet, rest = np.zeros(1), np.ones(1)
    assert np.array_equal(
        face("angry", "Ada", 7, 1, quiet, listening=rest)[0, :80],
        face("sad", "Ada", 7, 1, quiet, listening=rest)[0, :80],
    )
    with pytest.raises(ValueError, match="loudness has 1 values for 2 frames"):
        face("angry", "Ada", 7, 2, quiet)


def test_loudness_curve():
    samples = np.concatenate([np.zeros(RATE), np.full(RATE, 0.5)]).astype(np.float32)
    curve = loudness(samples, 4, 2.0)
    assert np.allclose(curve, [0, 0, 1, 1])
