"""Arms of the memory ladder compared on the same replies: what each history is worth, and its share of the full one's.

A row is one reply. Its gain, nats a token after another dialogue's history less those after its own, is what an arm
makes of what was really said before; the mean over replies counts each reply once. Intervals resample dialogues. Knows
nothing of models.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.metrics.bootstrap import bootstrap
from model.metrics.settings import BootstrapSettings
from model.metrics.verdict import LEARNED, verdict

TURNS = (2, 3, 4, 6, 10, 15, 30)
"""Where the groups of turns begin; each ends before the next."""
NONE, FULL = "none", "full"
COMPARISONS = (
    ("full", "none"),
    ("memory", "none"),
    ("memory", "mean"),
    ("memory-text-1", "mean-text-1"),
    ("memory-text-1", "text-1"),
)
"""(arm, the arm it is to be better than)."""


@dataclass(frozen=True, slots=True)
class ArmRow:
    """One true reply after an arm's way of giving the history.

    key: begins with the dataset, up to the first "/". own, other: nats a token after its own history, and after another
    dialogue's. turn: of the sentence, from 1. tokens: that the history takes in the prompt.
    """

    key: str
    dialogue: Hashable
    turn: int
    own: float
    other: float
    tokens: int

    @property
    def dataset(self) -> str:
        return self.key.split("/")[0]

    @property
    def gain(self) -> float:
        return self.other - self.own


Rows = Sequence[ArmRow]


def arm_figures(rows: Rows, full: Rows | None, intervals: BootstrapSettings) -> dict:
    """{"n", "dialogues", "own", "own_ci", "other", "gain", "share", "both", "tokens", "saved", "by_turn"} of one arm.

    own, other: mean nats; gain: verdict on other − own; tokens: the history's, a mean. share, saved: of the full text
    history's gain kept, and of its tokens spared, over the replies both have; both: how many, "rows" and "dialogues". None
    without `full`.
    """
    dialogues = [row.dialogue for row in rows]
    own = bootstrap([row.own for row in rows], dialogues, intervals).interval
    gains = [row.gain for row in rows]
    both = paired(rows, full or [])
    found = {
        "n": len(rows),
        "dialogues": len(set(dialogues)),
        "own": _rounded(own.mean),
        "own_ci": None if np.isnan(own.low) else [_rounded(own.low), _rounded(own.high)],
        "other": _rounded(float(np.mean([row.other for row in rows]))) if rows else None,
        "gain": verdict(gains, dialogues, intervals).as_dict(),
        "tokens": _rounded(float(np.mean([row.tokens for row in rows]))) if rows else None,
        "share": None,
        "both": None,
        "saved": None,
        "by_turn": by_turn(rows, intervals),
    }
    if both:
        mine, whole = ([row.gain for row in side] for side in zip(*both, strict=True))
        dialogues = [row.dialogue for row, _ in both]
        found["share"] = share(mine, whole, dialogues, intervals)
        found["both"] = {"rows": len(both), "dialogues": len(set(dialogues))}
        tokens = sum(other.tokens for _, other in both)
        found["saved"] = _rounded(1 - sum(row.tokens for row, _ in both) / tokens) if tokens else None
    return found


def share(
    gains: Sequence[float],
    of: Sequence[float],
    dialogues: Sequence[Hashable],
    intervals: BootstrapSettings,
) -> list[float] | None:
    """[share, low, high] of the mean of `of` that the mean of `gains` is, row by row the same replies.

    The interval is that of the mean of gain − share × of, over the mean of `of` (the ratio, linearised). None where the
    interval of `of` does not lie above zero, for a share of nothing is nothing, or where there are too few dialogues.
    """
    if verdict(of, dialogues, intervals).grade != LEARNED:
        return None
    part, whole = np.asarray(gains, dtype=np.float64), np.asarray(of, dtype=np.float64)
    ratio = float(part.mean() / whole.mean())
    reach = bootstrap((part - ratio * whole) / whole.mean(), dialogues, intervals).interval
    return [_rounded(ratio), _rounded(ratio + reach.low), _rounded(ratio + reach.high)]


def by_turn(rows: Rows, intervals: BootstrapSettings) -> list[dict]:
    """{"from", "to", "own", "gain"} of each group of turns that has rows; to: its last turn, None of the last group."""
    found = []
    for start, end in zip(TURNS, (*TURNS[1:], None), strict=True):
        inside = [row for row in rows if start <= row.turn and (end is None or row.turn < end)]
        if inside:
            gains = [row.gain for row in inside]
            found.append(
                {
                    "from": start,
                    "to": None if end is None else end - 1,
                    "own": _rounded(float(np.mean([row.own for row in inside]))),
                    "gain": verdict(gains, [row.dialogue for row in inside], intervals).as_dict(),
                }
            )
    return found


def paired(rows: Rows, others: Rows) -> list[tuple[ArmRow, ArmRow]]:
    """The rows of the replies that both arms have."""
    known = {row.key: row for row in others}
    return [(row, known[row.key]) for row in rows if row.key in known]


def comparisons(arms: Mapping[str, Rows], intervals: BootstrapSettings) -> list[dict]:
    """{"arm", "than", "difference"} of COMPARISONS: a verdict on how many nats less the arm leaves of the same reply."""
    found = []
    for arm, than in COMPARISONS:
        if arm in arms and than in arms:
            both = paired(arms[arm], arms[than])
            less = [other.own - row.own for row, other in both]
            judged = verdict(less, [row.dialogue for row, _ in both], intervals)
            found.append({"arm": arm, "than": than, "difference": judged.as_dict()})
    return found


def by_dataset(arms: Mapping[str, Rows], intervals: BootstrapSettings) -> dict[str, dict]:
    """{"arms": `arm_figures` by name, "comparisons"} of each dataset alone; {} where there is one at most."""
    datasets = sorted({row.dataset for rows in arms.values() for row in rows})
    found = {}
    for dataset in datasets if len(datasets) > 1 else ():
        alone = {name: [row for row in rows if row.dataset == dataset] for name, rows in arms.items()}
        figures = {name: arm_figures(rows, alone.get(FULL), intervals) for name, rows in alone.items()}
        found[dataset] = {"arms": figures, "comparisons": comparisons(alone, intervals)}
    return found


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 6) + 0.0  # none is "-0.0"
