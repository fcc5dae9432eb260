"""The ladder of table 2: which parts each rung has. Knows nothing of how they are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.pairs.settings import stage_name


@dataclass(frozen=True)
class Rung:
    """name: the replies' label. ft, mc, av, epo: the columns of table 2. adapter: the stage that trains it.

    against: the rung it is compared with, where that is not the one before it.
    """

    name: str
    title: str
    history: Literal["text", "memory"]
    adapter: str | None
    ft: bool = False
    mc: bool = False
    av: bool = False
    epo: bool = False
    against: str | None = None


LADDER = (
    Rung("1-llm", "LLM as it is", "text", None),
    Rung("2-ft", "finetuned (LoRA)", "text", "dialogue.text", ft=True),
    Rung("3-mc", "+ MambaCompressor", "memory", "dialogue.memory", ft=True, mc=True),
    Rung("4-av", "+ audio-visual", "memory", "dialogue.audiovisual", ft=True, mc=True, av=True),
    Rung("5-epo", "+ EPO", "memory", "epo", ft=True, mc=True, av=True, epo=True),
)
"""The five rungs of table 2. Without media the fourth has nothing to be trained on: it is not run, and the fifth continues the
third."""

FULL_TEXT = Rung(
    "4f-text", "4 with the full history as text", "text", "dialogue.text-audiovisual", ft=True, av=True,
    against="4-av",
)  # fmt: skip
"""Not in the paper: what the memories cost beside audio and video. Only where asked for."""
CONTROL_RUNGS = {
    name: Rung(
        f"{number}-{name.replace('_', '-')}", what, "memory", stage_name("epo", name),
        ft=True, mc=True, av=True, epo=True, against="5-epo",
    )
    for number, (name, what) in enumerate(
        (
            ("random", "EPO on random replies"),
            ("most_similar", "EPO on the most similar replies"),
            ("shuffled", "EPO on pairs by another exchange's reply"),
            ("nll", "the autoregressive loss alone"),
        ),
        start=6,
    )
}  # fmt: skip
"""Not in the paper: control (model/pairs/settings.py) -> its rung: what training on the same rows gains without the
exchange's own emotion in its pairs. Only where asked for."""

RUNGS = (*LADDER, FULL_TEXT, *CONTROL_RUNGS.values())
