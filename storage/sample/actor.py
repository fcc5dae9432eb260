"""The procedural actor's voice: a source-filter speaker whose delivery follows an emotion.

A harmonic glottal source (pitch contour, jitter, tremor, creak) is weighted by the resonances of the
vowels found in the text, and mixed with breath, consonant bursts and room noise. Speakers differ in pitch
and vocal-tract length. Every utterance is acted with its own strength and leans by a random amount towards
a look-alike emotion, so that a label can be learned from the sound but not read off it.
Knows nothing of pictures, files or datasets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

import numpy as np

from storage.sample.script import digest_seed

RATE = 16_000
"""Samples a second."""
SHORTEST, LONGEST = 1.0, 3.0
"""Bounds of an utterance's length in seconds."""

CONTROL_RATE = 200  # points a second at which pitch, loudness and resonances are planned
EDGE = 0.08  # seconds of silence before and after the speech


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a sentence is spoken, relative to the speaker's plain voice."""

    pitch: float
    """Octaves above the speaker's base pitch."""
    span: float
    """Octaves of pitch movement on accents."""
    slope: float
    """Octaves of rise from the first to the last syllable."""
    energy: float
    """Decibels."""
    pace: float
    """Factor on syllables a second."""
    tilt: float
    """Fall of the harmonics: amplitude is proportional to number ** -tilt; small is bright."""
    breath: float
    """Share of breath noise."""
    tremor: float
    """Octaves of six-hertz wobble."""
    creak: float
    """Depth of alternation between glottal pulses, 0 to 1."""
    tract: float
    """Factor on the resonances: a smile shortens the vocal tract, a retracted tongue lengthens it."""


DELIVERIES = {
    "angry": Delivery(0.32, 0.45, -0.15, 6.0, 1.15, 0.70, 0.04, 0.00, 0.15, 1.00),
    "disgust": Delivery(-0.18, 0.30, -0.30, 0.0, 0.78, 1.25, 0.10, 0.00, 0.75, 0.90),
    "fearful": Delivery(0.50, 0.20, 0.05, -2.0, 1.30, 1.20, 0.30, 0.12, 0.05, 1.03),
    "happy": Delivery(0.36, 0.55, 0.10, 5.0, 1.10, 0.85, 0.06, 0.00, 0.00, 1.10),
    "neutral": Delivery(0.00, 0.18, -0.10, 0.0, 1.00, 1.05, 0.06, 0.00, 0.05, 1.00),
    "sad": Delivery(-0.12, 0.10, -0.25, -5.0, 0.75, 1.40, 0.22, 0.03, 0.10, 0.98),
    "surprise": Delivery(0.52, 0.80, 0.55, 3.0, 0.95, 0.95, 0.12, 0.00, 0.00, 1.02),
}
LEANS_TO = {
    "angry": "happy",
    "disgust": "neutral",
    "fearful": "neutral",
    "happy": "angry",
    "neutral": "sad",
    "sad": "neutral",
    "surprise": "happy",
}
"""The emotion each one is mistaken for by ear."""
LEAN = 0.55  # largest share of the look-alike
STRENGTH = (0.55, 1.15)
SCATTER = {"pitch": 0.06, "span": 0.08, "slope": 0.08, "energy": 1.2, "pace": 0.06, "tilt": 0.08}

VOWELS = {
    "a": (800.0, 1300.0, 2600.0),
    "e": (530.0, 1850.0, 2500.0),
    "i": (320.0, 2250.0, 2950.0),
    "o": (520.0, 920.0, 2450.0),
    "u": (350.0, 1050.0, 2300.0),
    "y": (340.0, 2050.0, 2700.0),
}
"""First three resonances in hertz of a mid-sized vocal tract."""
BANDWIDTHS = np.array([90.0, 120.0, 180.0])
HISSING = set("sfzxhctpk")


@dataclass(frozen=True, slots=True)
class Syllable:
    """A vowel with the sound before it; times in seconds."""

    start: float
    length: float
    vowel: str
    hiss: float
    accent: float


def voice(text: str, emotion: str, speaker: str, seed: int) -> np.ndarray:
    """Speak `text`: float32 mono samples in [-1, 1] at RATE, SHORTEST to LONGEST seconds.

    `emotion` is a key of DELIVERIES. The same arguments give the same samples.
    """
    delivery, rng = _direct(emotion, seed)
    base, tract = _speaker_voice(speaker)
    syllables, seconds = _plan(text, delivery, rng)
    count = round(seconds * RATE)
    times = np.arange(round(seconds * CONTROL_RATE) + 1) / CONTROL_RATE
    loud = _envelope(syllables, times)
    pitch = _pitch(syllables, times, base, delivery, rng)
    resonances = _resonances(syllables, times, tract * delivery.tract)
    voiced = _harmonics(pitch, loud, resonances, times, delivery, count)
    samples = voiced + _breath(syllables, times, loud, delivery, count, rng)
    return _level(samples, delivery.energy, rng)


def duration(text: str, emotion: str, seed: int) -> float:
    """Seconds that `voice` takes for the same arguments, without speaking."""
    delivery, rng = _direct(emotion, seed)
    return round(_plan(text, delivery, rng)[1] * RATE) / RATE


def loudness(samples: np.ndarray, frames: int, fps: float) -> np.ndarray:
    """Loudness in [0, 1] per video frame: root mean square over the frame's time, loudest frame 1."""
    edges = np.minimum((np.arange(frames + 1) * RATE / fps).astype(int), len(samples))
    power = np.concatenate(([0.0], np.cumsum(samples.astype(np.float64) ** 2)))
    level = np.sqrt((power[edges[1:]] - power[edges[:-1]]) / np.maximum(np.diff(edges), 1))
    return level / max(float(level.max(initial=0.0)), 1e-6)


def _direct(emotion: str, seed: int) -> tuple[Delivery, np.random.Generator]:
    """The delivery of one utterance: strength, look-alike and scatter drawn from the seed."""
    rng = np.random.default_rng([seed, 1])
    strength, lean = rng.uniform(*STRENGTH), rng.uniform(0.0, LEAN)
    target, other, plain = DELIVERIES[emotion], DELIVERIES[LEANS_TO[emotion]], DELIVERIES["neutral"]
    values = {}
    for field in fields(Delivery):
        acted = (1 - lean) * getattr(target, field.name) + lean * getattr(other, field.name)
        calm = getattr(plain, field.name)
        scatter = rng.normal(0.0, SCATTER.get(field.name, 0.02))
        values[field.name] = calm + strength * (acted - calm) + scatter
    for name in ("span", "breath", "tremor", "creak"):
        values[name] = max(values[name], 0.0)
    return Delivery(**values), rng


def _speaker_voice(speaker: str) -> tuple[float, float]:
    """Base pitch in hertz and factor on the resonances.

    IEMOCAP's speaker ids end in F or M, and get a high or a low voice; other names get any.
    """
    rng = np.random.default_rng([digest_seed("voice", speaker)])
    position = rng.uniform()
    if speaker.startswith("Ses"):
        position = (0.65 if speaker.endswith("F") else 0.0) + 0.35 * position
    return 105.0 * 2.1**position, 0.92 + 0.2 * position + rng.normal(0.0, 0.015)


def _plan(text: str, delivery: Delivery, rng: np.random.Generator) -> tuple[list[Syllable], float]:
    """Place the text's syllables on the time line; returns them with the whole length in seconds."""
    length = 0.15 / max(delivery.pace, 0.5)
    now, placed = EDGE, []
    for word in re.findall(r"[\w']+[.,:;!?]?", text.lower()):
        nuclei = re.findall(r"([^aeiouy]*)([aeiouy])[aeiouy]*", word) or [(word, "e")]
        for place, (before, vowel) in enumerate(nuclei):
            stretched = length * rng.uniform(0.8, 1.2)
            hiss = 1.0 if HISSING & set(before) else 0.25 if before else 0.0
            accent = rng.normal(0.0, 0.25) + (0.6 if place == 0 and len(word) > 3 else -0.3)
            placed.append(Syllable(now, stretched, vowel, hiss, accent))
            now += stretched
        if word[-1] in ".,:;!?":
            now += 0.6 * length
    squeeze = min(1.0, (LONGEST - 2 * EDGE) / (now - EDGE))
    spoken = [
        Syllable(EDGE + (s.start - EDGE) * squeeze, s.length * squeeze, s.vowel, s.hiss, s.accent)
        for s in placed
    ]
    return spoken, max(SHORTEST, EDGE + (now - EDGE) * squeeze + EDGE)


def _envelope(syllables: list[Syllable], times: np.ndarray) -> np.ndarray:
    """Loudness of the voice at the control points: one hump a syllable."""
    loud = np.zeros_like(times)
    for syllable in syllables:
        phase = np.clip((times - syllable.start) / syllable.length, 0.0, 1.0)
        loud += np.sin(np.pi * phase) ** 0.7 * (1.0 + 0.3 * syllable.accent)
    return loud


def _pitch(
    syllables: list[Syllable], times: np.ndarray, base: float, delivery: Delivery, rng: np.random.Generator
) -> np.ndarray:
    """Pitch in hertz at the control points."""
    middles = [s.start + s.length / 2 for s in syllables]
    accents = np.interp(times, middles, [s.accent for s in syllables])
    progress = np.clip((times - middles[0]) / max(middles[-1] - middles[0], 1e-3), 0.0, 1.0)
    octaves = delivery.pitch + delivery.span * accents + delivery.slope * (progress**2 - 0.3)
    octaves += delivery.tremor * np.sin(2 * np.pi * 6.3 * times + rng.uniform(0, 2 * np.pi))
    octaves += rng.normal(0.0, 0.008, len(times))
    return base * 2.0**octaves


def _resonances(syllables: list[Syllable], times: np.ndarray, tract: float) -> np.ndarray:
    """Resonance frequencies, [3, control points] in hertz, gliding from vowel to vowel."""
    middles = [s.start + s.length / 2 for s in syllables]
    targets = np.array([VOWELS[s.vowel] for s in syllables])
    return tract * np.stack([np.interp(times, middles, targets[:, i]) for i in range(3)])


def _harmonics(
    pitch: np.ndarray,
    loud: np.ndarray,
    resonances: np.ndarray,
    times: np.ndarray,
    delivery: Delivery,
    count: int,
) -> np.ndarray:
    """The voiced part: harmonics of the pitch, weighted by tilt and resonances."""
    clock = np.arange(count) / RATE
    phase = 2 * np.pi * np.cumsum(np.interp(clock, times, pitch)) / RATE
    voiced = np.zeros(count)
    for number in range(1, int(6500 / pitch.min()) + 1):
        frequency = number * pitch
        distance = (frequency - resonances) / BANDWIDTHS[:, None]
        gain = (1.0 / (1.0 + distance**2)).sum(axis=0) + 0.08
        gain *= loud * float(number) ** -max(delivery.tilt, 0.4) * (frequency < 7000)
        voiced += np.interp(clock, times, gain) * np.sin(number * phase)
    # Every second glottal pulse weaker: energy at half the pitch, heard as creak.
    return voiced * (1.0 - 0.5 * min(delivery.creak, 1.0) * (1.0 + np.cos(phase / 2)))


def _breath(
    syllables: list[Syllable],
    times: np.ndarray,
    loud: np.ndarray,
    delivery: Delivery,
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """The noisy part: breath under the vowels and bursts before them."""
    bursts = np.zeros_like(times)
    for syllable in syllables:
        phase = np.clip((times - syllable.start) / (0.3 * syllable.length), 0.0, 1.0)
        bursts += syllable.hiss * np.sin(np.pi * phase)
    noise = rng.standard_normal(count)
    high = np.diff(noise, prepend=noise[:1])
    clock = np.arange(count) / RATE
    breath = np.interp(clock, times, loud) * delivery.breath * noise
    return breath + 0.12 * np.interp(clock, times, bursts) * high


def _level(samples: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """Set the loudness, move the microphone a little, add the room, and limit softly."""
    wanted = 0.075 * 10.0 ** ((decibels + rng.normal(0.0, 1.5)) / 20.0)
    samples = samples * wanted / max(float(np.sqrt(np.mean(samples**2))), 1e-9)
    room = 10.0 ** (rng.uniform(-58.0, -44.0) / 20.0)
    return np.tanh(samples + room * rng.standard_normal(len(samples))).astype(np.float32)
