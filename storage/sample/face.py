"""The procedural actor's face: a drawn head whose muscles follow an emotion and whose mouth follows speech.

Speakers differ in skin, hair, build and background. Every utterance is acted with its own strength and
leans by a random amount towards a look-alike emotion, so that a label can be learned from the picture but
not read off it. Knows nothing of sound (it gets a loudness curve), files or datasets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from storage.sample.script import digest_seed

Point = tuple[float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Expression:
    """How far each part of the face is moved; 0 is rest unless said otherwise."""

    brow_height: float
    brow_slant: float
    """Above 0 the inner ends are raised (worry), below 0 pulled down (scowl)."""
    eye_open: float
    """1 is rest."""
    mouth_curve: float
    """Above 0 the corners are up."""
    mouth_width: float
    mouth_open: float
    nose_wrinkle: float
    cheek: float
    head_drop: float
    head_shake: float


EXPRESSIONS = {
    "angry": Expression(-0.80, -1.00, 0.85, -0.55, -0.05, 0.20, 0.25, 0.0, 0.15, 0.5),
    "disgust": Expression(-0.55, -0.45, 0.50, -0.70, -0.20, 0.10, 1.00, 0.3, -0.25, 0.2),
    "fearful": Expression(0.75, 0.85, 1.40, -0.40, 0.25, 0.25, 0.00, 0.0, -0.10, 1.2),
    "happy": Expression(0.15, 0.10, 0.75, 1.00, 0.40, 0.20, 0.00, 1.0, -0.10, 0.5),
    "neutral": Expression(0.00, 0.00, 1.00, 0.00, 0.00, 0.00, 0.00, 0.0, 0.00, 0.1),
    "sad": Expression(0.15, 0.90, 0.62, -0.90, -0.15, 0.00, 0.00, 0.0, 0.60, 0.1),
    "surprise": Expression(1.00, 0.10, 1.45, 0.00, -0.40, 0.70, 0.00, 0.0, -0.20, 0.3),
}
LEANS_TO = {
    "angry": "disgust",
    "disgust": "angry",
    "fearful": "surprise",
    "happy": "neutral",
    "neutral": "happy",
    "sad": "fearful",
    "surprise": "fearful",
}
"""The emotion each one is mistaken for by sight."""
LEAN = 0.55  # largest share of the look-alike
STRENGTH = (0.55, 1.15)
SCATTER = 0.10
GREY = 128

SKINS = ((246, 214, 190), (232, 190, 160), (214, 165, 130), (178, 126, 92), (134, 90, 64), (98, 66, 50))
HAIRS = ((40, 30, 26), (88, 56, 34), (140, 92, 50), (206, 168, 98), (150, 150, 152), (150, 64, 36))
WALLS = ((176, 190, 200), (198, 186, 168), (168, 186, 166), (190, 172, 186), (204, 196, 178), (150, 166, 186))
IRISES = ((70, 50, 36), (70, 104, 128), (84, 112, 74))
SHIRTS = ((66, 90, 130), (130, 60, 66), (70, 110, 92), (112, 92, 132), (180, 150, 80), (70, 74, 84))


@dataclass(frozen=True, slots=True)
class Look:
    """What stays the same about a speaker."""

    skin: Colour
    hair: Colour
    wall: Colour
    iris: Colour
    shirt: Colour
    width: float
    """Half width of the head over its half height."""
    long_hair: bool
    brow_weight: float
    eye_spacing: float
    nose: float


def face(
    emotion: str,
    speaker: str,
    seed: int,
    frames: int,
    loudness: np.ndarray,
    height: int = 224,
    width: int = 224,
    head: float | None = None,
    supersample: int = 2,
    listening: np.ndarray | None = None,
) -> np.ndarray:
    """Film the speaker: uint8 RGB, [frames, height, width, 3].

    `emotion` is a key of EXPRESSIONS. `loudness` [frames] in [0, 1] opens the mouth. `head` is the side in
    pixels of the square that the head fills (by default the shorter side). `supersample` is the factor at
    which edges are drawn before averaging. `listening` [frames] in [0, 1] fades the expression out where
    somebody else speaks. The same arguments give the same frames.
    Raises ValueError where a curve's length is not `frames`.
    """
    for name, curve in (("loudness", loudness), ("listening", listening)):
        if curve is not None and len(curve) != frames:
            raise ValueError(f"face: {name} has {len(curve)} values for {frames} frames; give one a frame")
    look = _look(speaker)
    rng = np.random.default_rng([seed, 2])
    expression = _direct(emotion, rng)
    sway = _sway(frames, rng)
    blinks = _blinks(frames, rng)
    grain = _grain(height, width, rng)
    stage = _Stage(look, height, width, head or min(height, width), supersample)
    film = np.empty((frames, height, width, 3), np.uint8)
    for index in range(frames):
        share = 1.0 if listening is None else 1.0 - float(listening[index])
        pose = _pose(expression, share, float(loudness[index]), blinks[index])
        picture = stage.draw(pose, sway[index])
        film[index] = np.asarray(ImageChops.add(picture, grain[index % len(grain)], 1, -GREY))
    return film


def _look(speaker: str) -> Look:
    rng = np.random.default_rng([digest_seed("face", speaker)])
    skin, hair, wall, iris, shirt = (
        options[rng.integers(len(options))] for options in (SKINS, HAIRS, WALLS, IRISES, SHIRTS)
    )
    return Look(
        skin,
        hair,
        wall,
        iris,
        shirt,
        width=rng.uniform(0.72, 0.84),
        long_hair=speaker.endswith("F") if speaker.startswith("Ses") else bool(rng.integers(2)),
        brow_weight=rng.uniform(0.035, 0.06),
        eye_spacing=rng.uniform(0.32, 0.38),
        nose=rng.uniform(0.8, 1.2),
    )


def _direct(emotion: str, rng: np.random.Generator) -> Expression:
    """The expression of one utterance: strength, look-alike and scatter drawn at random."""
    strength, lean = rng.uniform(*STRENGTH), rng.uniform(0.0, LEAN)
    target, other, rest = EXPRESSIONS[emotion], EXPRESSIONS[LEANS_TO[emotion]], EXPRESSIONS["neutral"]
    values = {}
    for field in fields(Expression):
        acted = (1 - lean) * getattr(target, field.name) + lean * getattr(other, field.name)
        calm = getattr(rest, field.name)
        values[field.name] = calm + strength * (acted - calm) + rng.normal(0.0, SCATTER)
    return Expression(**values)


def _pose(expression: Expression, share: float, loud: float, blink: float) -> Expression:
    """The expression in one frame: faded by `share`, mouth opened by speech, lids closed by a blink."""
    rest = EXPRESSIONS["neutral"]
    now = {
        field.name: getattr(rest, field.name)
        + share * (getattr(expression, field.name) - getattr(rest, field.name))
        for field in fields(Expression)
    }
    now["mouth_open"] = max(now["mouth_open"], 0.0) + 0.55 * loud
    now["eye_open"] = float(np.clip(now["eye_open"], 0.2, 1.6)) * (1.0 - blink)
    return Expression(**now)


def _sway(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Slow head movement and a quicker tremble, [frames, 4]: x, y, and tremble x, y; about -1 to 1."""
    steps = np.arange(frames)[:, None]
    slow = np.sin(steps * rng.uniform(0.08, 0.22, 2) + rng.uniform(0, 2 * np.pi, 2))
    return np.concatenate([slow, rng.uniform(-1.0, 1.0, (frames, 2))], axis=1)


def _blinks(frames: int, rng: np.random.Generator) -> np.ndarray:
    """How far the lids are closed by blinking, [frames]; about one blink in three seconds."""
    closed = np.zeros(frames)
    for start in np.flatnonzero(rng.uniform(size=frames) < 1 / 40):
        closed[start : start + 2] = 0.9
    return closed


def _grain(height: int, width: int, rng: np.random.Generator) -> list[Image.Image]:
    """Light falling in from one side, plus camera noise, as pictures to add to; GREY means no change."""
    side, level = rng.uniform(-22, 22), rng.uniform(-14, 14)
    light = GREY + level + side * np.linspace(-1, 1, width) + np.linspace(8, -8, height)[:, None]
    noise = rng.integers(-2, 3, (4, height, width))
    return [Image.fromarray((light + layer).astype(np.uint8)).convert("RGB") for layer in noise]


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (int(min(255, channel * factor)) for channel in colour)
    return red, green, blue


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    """`share` of the first colour and the rest of the second."""
    red, green, blue = (int(share * a + (1 - share) * b) for a, b in zip(first, second, strict=True))
    return red, green, blue


class _Stage:
    """Draws one speaker; lengths are in half heads (1.0 is half the head's height)."""

    def __init__(self, look: Look, height: int, width: int, head: float, supersample: int) -> None:
        self.look, self.supersample = look, supersample
        self.size = (width * supersample, height * supersample)
        self.unit = 0.38 * head * supersample
        self.backdrop = Image.new("RGB", self.size, look.wall)

    def draw(self, pose: Expression, sway: np.ndarray) -> Image.Image:
        picture = self.backdrop.copy()
        canvas = ImageDraw.Draw(picture)
        shake = max(pose.head_shake, 0.0)
        centre_x = self.size[0] / 2 + self.unit * (0.05 * sway[0] + 0.02 * shake * sway[2])
        lift = 0.03 * sway[1] + 0.02 * shake * sway[3] + 0.10 * pose.head_drop
        centre_y = self.size[1] / 2 + self.unit * lift
        brush = _Brush(canvas, centre_x, centre_y, self.unit)
        self._body(brush)
        self._head(brush)
        # A dropped head shows more of its crown: the features slide down inside the outline.
        features = _Brush(canvas, centre_x, centre_y + self.unit * 0.08 * pose.head_drop, self.unit)
        for side in (-1, 1):
            self._eye(picture, features, side, pose)
            self._brow(features, side, pose)
        self._nose(features, pose)
        self._cheeks(features, pose)
        self._mouth(features, pose)
        return picture.reduce(self.supersample) if self.supersample > 1 else picture

    def _body(self, brush: _Brush) -> None:
        look = self.look
        if look.long_hair:
            brush.ellipse(0, 0.05, look.width * 1.22, 1.12, _shade(look.hair, 0.85))
            brush.polygon([(-0.95, 0.1), (0.95, 0.1), (0.9, 1.25), (-0.9, 1.25)], _shade(look.hair, 0.85))
        brush.ellipse(0, 2.0, 1.35, 0.95, look.shirt)
        brush.polygon([(-0.28, 0.7), (0.28, 0.7), (0.34, 1.25), (-0.34, 1.25)], _shade(look.skin, 0.82))

    def _head(self, brush: _Brush) -> None:
        look = self.look
        for side in (-1, 1):
            brush.ellipse(side * look.width, 0.05, 0.12, 0.2, _shade(look.skin, 0.9))
        brush.ellipse(0, -0.08, look.width * 1.06, 1.0, look.hair)
        brush.ellipse(0, 0.02, look.width, 0.97, look.skin)
        crown = [(x * look.width * 1.06, -0.08 - np.sqrt(1 - x * x)) for x in np.linspace(-0.9, 0.9, 21)]
        fringe = [(0.75 * look.width, -0.5), (0.1, -0.66), (-0.75 * look.width, -0.46)]
        brush.polygon(crown + fringe, look.hair)

    def _eye(self, picture: Image.Image, brush: _Brush, side: int, pose: Expression) -> None:
        x, y = side * self.look.eye_spacing, -0.12
        tall = max(0.105 * pose.eye_open, 0.006)
        wide = 0.17
        left, top = brush.at(x - wide, y - 0.2)
        right, bottom = brush.at(x + wide, y + 0.2)
        size = (round(right - left), round(bottom - top))
        eye = Image.new("RGB", size, (244, 244, 242))
        inside = _Brush(ImageDraw.Draw(eye), size[0] / 2, size[1] / 2, self.unit)
        inside.ellipse(0, 0, 0.092, 0.092, self.look.iris)
        inside.ellipse(0, 0, 0.045, 0.045, (16, 14, 14))
        inside.ellipse(0.03, -0.03, 0.018, 0.018, (250, 250, 250))
        mask = Image.new("L", size, 0)
        _Brush(ImageDraw.Draw(mask), size[0] / 2, size[1] / 2, self.unit).ellipse(0, 0, wide, tall, 255)
        picture.paste(eye, (round(left), round(top)), mask)
        # The upper lid as a dark rim; heavy lids sit lower.
        lid = [(x + wide * u, y - tall * np.sqrt(1 - u * u)) for u in np.linspace(-1, 1, 9)]
        brush.line(lid, 0.028, _shade(self.look.skin, 0.42))

    def _brow(self, brush: _Brush, side: int, pose: Expression) -> None:
        x = side * self.look.eye_spacing
        y = -0.36 - 0.10 * pose.brow_height
        inner, outer = (
            (x - side * 0.19, y - 0.11 * pose.brow_slant),
            (x + side * 0.21, y + 0.07 * pose.brow_slant),
        )
        arch = 0.05 + 0.03 * max(pose.brow_height, 0.0)
        bow = [
            (
                inner[0] + u * (outer[0] - inner[0]),
                inner[1] + u * (outer[1] - inner[1]) - arch * 4 * u * (1 - u),
            )
            for u in np.linspace(0, 1, 7)
        ]
        brush.line(bow, 2 * self.look.brow_weight, _shade(self.look.hair, 0.8))
        scowl = max(-pose.brow_slant, 0.0)
        if scowl > 0.35:
            brush.line([(side * 0.05, -0.38), (side * 0.04, -0.24)], 0.02, _shade(self.look.skin, 0.7))

    def _nose(self, brush: _Brush, pose: Expression) -> None:
        dark, size = _shade(self.look.skin, 0.72), 0.12 * self.look.nose
        wrinkle = max(pose.nose_wrinkle, 0.0)
        base = 0.25 - 0.05 * wrinkle
        brush.line(
            [(-size, base - 0.04), (-size * 0.4, base), (size * 0.4, base), (size, base - 0.04)], 0.03, dark
        )
        for step in range(3):
            if wrinkle > 0.25 + 0.2 * step:
                y = 0.02 + 0.07 * step
                brush.line([(-0.10, y), (0.0, y + 0.03), (0.10, y)], 0.022, dark)

    def _cheeks(self, brush: _Brush, pose: Expression) -> None:
        fold = max(abs(pose.mouth_curve), pose.nose_wrinkle)
        if fold > 0.3:
            for side in (-1, 1):
                bulge = side * (0.34 + 0.05 * max(pose.mouth_curve, 0.0))
                points = [(side * 0.17, 0.22), (bulge, 0.36), (bulge, 0.48)]
                brush.line(points, 0.018, _shade(self.look.skin, 0.8))
        if pose.cheek > 0.35:
            red, green, blue = self.look.skin
            for side in (-1, 1):
                brush.ellipse(
                    side * 0.48, 0.2, 0.12, 0.08, (min(255, red + 14), int(green * 0.88), int(blue * 0.88))
                )

    def _mouth(self, brush: _Brush, pose: Expression) -> None:
        half = 0.28 * (1.0 + 0.45 * pose.mouth_width)
        raise_corner = 0.13 * pose.mouth_curve
        gap = 0.20 * max(pose.mouth_open, 0.0)
        lift = 0.05 * max(pose.nose_wrinkle, 0.0)
        across = np.linspace(-1, 1, 11)
        bend = 1 - across**2
        upper = [(half * u, 0.50 - raise_corner * u * u + raise_corner * 0.4 - (0.35 * gap + lift) * b)
                 for u, b in zip(across, bend, strict=True)]  # fmt: skip
        lower = [(half * u, 0.50 - raise_corner * u * u + raise_corner * 0.4 + (0.65 * gap + 0.012) * b)
                 for u, b in zip(across, bend, strict=True)]  # fmt: skip
        lip = _mix(self.look.skin, (170, 60, 66), 0.55)
        brush.polygon(upper + lower[::-1], (74, 26, 30))
        if gap > 0.05:
            # Away from the corners, where the lips meet.
            edge = [
                (x, y + min(0.06, 0.45 * (below - y)))
                for (x, y), (_, below) in zip(upper, lower, strict=True)
            ]
            brush.polygon(upper[2:-2] + edge[2:-2][::-1], (240, 238, 230))
        brush.line(upper, 0.05, _shade(lip, 0.86))
        brush.line(lower, 0.06, lip)


class _Brush:
    """Draws in half heads around a centre given in pixels."""

    def __init__(self, canvas: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
        self.canvas, self.x, self.y, self.unit = canvas, x, y, unit

    def at(self, x: float, y: float) -> Point:
        return (self.x + x * self.unit, self.y + y * self.unit)

    def ellipse(self, x: float, y: float, half_width: float, half_height: float, fill) -> None:
        box = [*self.at(x - half_width, y - half_height), *self.at(x + half_width, y + half_height)]
        self.canvas.ellipse(box, fill=fill)

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self.canvas.polygon([self.at(x, y) for x, y in points], fill=fill)

    def line(self, points: list[Point], weight: float, fill: Colour) -> None:
        thickness = max(1, round(weight * self.unit))
        joint = "curve" if thickness > 8 else None  # round joints are slow, and unseen in thin lines
        self.canvas.line([self.at(x, y) for x, y in points], fill=fill, width=thickness, joint=joint)
