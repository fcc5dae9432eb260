"""The figures of measured systems, as data: page, terminal, JSON and CSV loop over this table.

A figure that is added here, and measured under its key by the stage `metrics`, stands in all of them. Knows nothing
of HTML, terminals or stores.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from typing import Literal

from tasks.report.paper_tables import METRICS


@dataclass(frozen=True)
class Figure:
    """One figure of a system. key: its name in metrics.json, where KEY_ci is its 95 % interval.

    short: a column's head. digits: behind the point. better: the direction. source: where it comes from.
    scorer: the role of the weights that measure it, "" for none: figures of two scorers share no axis.
    steps, control: it stands in the table of what each rung adds, of EPO beside its control.
    """

    key: str
    title: str
    short: str
    source: str
    better: Literal["higher", "lower", "neither"] = "higher"
    digits: int = 3
    scorer: str = ""
    steps: bool = False
    control: bool = False

    @property
    def main(self) -> bool:
        """Whether the paper's tables have it, and so the compact ones here."""
        return self.key in METRICS


FIGURES = (
    Figure(
        "bertscore",
        "BERTScore",
        "BERTScore",
        "F1 without rescaling or idf (Zhang et al. 2020)",
        scorer="BERTScore",
        steps=True,
        control=True,
    ),
    Figure(
        "emotionscore",
        "EmotionScore, the scorer that chose the pairs",
        "EmotionScore",
        "cosine of the emotion scorer's features of reply and true reply",
        scorer="emotion scorer",
        control=True,
    ),
    Figure("dist1", "Dist-1", "Dist-1", "different words among a reply's words, mean over replies"),
    Figure(
        "emotionscore_second",
        "EmotionScore, second scorer",
        "EmotionScore, second scorer",
        "as EmotionScore, by a scorer that took no part in choosing pairs",
        scorer="second emotion scorer",
        steps=True,
        control=True,
    ),
    Figure(
        "emotioncontrast",
        "Emotion contrast",
        "Emotion contrast",
        "EmotionScore less the mean over all other true replies of the dataset",
        scorer="emotion scorer",
    ),
    Figure(
        "emotioncontrast_second",
        "Emotion contrast, second scorer",
        "Emotion contrast, second scorer",
        "as emotion contrast, by the second scorer",
        scorer="second emotion scorer",
        steps=True,
        control=True,
    ),
    Figure("dist1_corpus", "Dist-1 of the corpus", "Dist-1 of the corpus", "over all replies together"),
    Figure("reply_words", "Words a reply", "Words a reply", "mean over replies", "neither", digits=1),
)
MAIN = tuple(figure for figure in FIGURES if figure.main)
FURTHER = tuple(figure for figure in FIGURES if not figure.main)
COLUMNS = (
    "rung", "system", "dataset", "split", "n", "dialogues", "figure", "title", "value", "low", "high", "better", "source",
)  # fmt: skip
"""Of the CSV: a line for each figure of each system."""


def as_dicts() -> list[dict]:
    """The table itself, for JSON."""
    return [{**asdict(figure), "paper": figure.main} for figure in FIGURES]


def figure_rows(systems: list[dict]) -> list[dict]:
    """COLUMNS of every figure that a system has; an interval that was not taken is None."""
    rows = []
    for system in systems:
        whose = {name: system.get(name) for name in COLUMNS[:6]}
        for figure in (f for f in FIGURES if system.get(f.key) is not None):
            low, high = system.get(f"{figure.key}_ci") or (None, None)
            told = {"figure": figure.key, "title": figure.title, "value": system[figure.key]}
            rows.append(
                whose | told | {"low": low, "high": high, "better": figure.better, "source": figure.source}
            )
    return rows


def as_csv(systems: list[dict]) -> bytes:
    """`figure_rows` as CSV with a header (RFC 4180); figures are not rounded, None is empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    table.writerows(figure_rows(systems))
    return text.getvalue().encode("utf-8")
