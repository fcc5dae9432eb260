"""What the releases' own pages and papers say of their size: a data card puts it beside what was read.

Knows nothing of how anything is read. A figure here is not corrected where the files contradict it (MELD's page
counts 1,039 train dialogues, its label file 1,038): the difference is what a card is to show.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    """Figures of some of our splits taken together. `labels`: as the release spells them."""

    name: str
    splits: tuple[str, ...]
    utterances: int
    dialogues: int | None = None
    labels: dict[str, int] = field(default_factory=dict)


def _meld(split: str, dialogues: int, utterances: int, *labels: int) -> Published:
    names = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
    return Published(split, (split,), utterances, dialogues, dict(zip(names, labels, strict=True)))


ALL = ("train", "dev", "test")
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "meld": (
        _meld("train", 1039, 9989, 1109, 271, 268, 1743, 4710, 683, 1205),
        _meld("dev", 114, 1109, 153, 22, 40, 163, 470, 111, 150),
        _meld("test", 280, 2610, 345, 68, 50, 402, 1256, 208, 281),
    ),
    # dev is our part of the release's train; its own valid splits are not read.
    "multidialog": (
        Published("train", ("train", "dev"), 151_645, 7011),
        Published("test_freq", ("test",), 9811, 450),
    ),
    "iemocap": (
        Published(
            "five sessions", ALL, 10_039, 151,
            {"ang": 1103, "dis": 2, "exc": 1041, "fea": 40, "fru": 1849, "hap": 595, "neu": 1708, "oth": 3,
             "sad": 1084, "sur": 107, "xxx": 2507},
        ),
    ),
    "ravdess": (
        Published(
            "speech and song", ALL, 2452, None,
            {"01": 188, "02": 376, "03": 376, "04": 376, "05": 376, "06": 376, "07": 192, "08": 192},
        ),
    ),
    "crema_d": (
        Published(
            "91 actors", ALL, 7442, None,
            {"ANG": 1271, "DIS": 1271, "FEA": 1271, "HAP": 1271, "NEU": 1087, "SAD": 1271},
        ),
    ),
}  # fmt: skip
"""Dataset -> what is published of it."""
