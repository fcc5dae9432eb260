"""How many judgements a difference between two systems needs to be seen, and which one so many show.

Of paired judgements (one person, one conversation, two systems) that are independent of one another; people and
conversations who judge alike need more. Knows nothing of studies.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from pydantic import BaseModel, Field

THREE_POINTS_SD = math.sqrt(2 / 3)
"""Of a judgement where bad, medium and good are as frequent. The paper prints no spread."""


class Power(BaseModel, frozen=True, extra="forbid"):
    """What is assumed of the judgements, which are points from 1 to 3, and what is asked of the study. None of it is in the
    paper."""

    difference: float = Field(0.1, ge=0.001, le=2, description="Of two systems' means, to be seen.")
    level: float = Field(0.95, gt=0, lt=1, description="Of the interval that is to leave zero out.")
    power: float = Field(0.8, gt=0, lt=1, description="Share of such studies that see it.")
    sd: float = Field(THREE_POINTS_SD, gt=0, le=1, description="Of one judgement.")
    correlation: float = Field(
        0.0, ge=0, lt=1, description="Of one person's judgements of two replies to the same conversation."
    )

    @property
    def reach(self) -> float:
        """The difference in standard errors that is seen with this power: 2.8 by default."""
        normal = NormalDist()
        return normal.inv_cdf((1 + self.level) / 2) + normal.inv_cdf(self.power)

    @property
    def difference_sd(self) -> float:
        """Of the difference of two judgements."""
        return self.sd * math.sqrt(2 * (1 - self.correlation))

    def judgements(self, difference: float | None = None) -> int:
        """Judgements of each system, for each question, that the difference needs."""
        return math.ceil((self.reach * self.difference_sd / (difference or self.difference)) ** 2)

    def detectable(self, judgements: int) -> float:
        """The smallest difference that so many judgements of each system show."""
        return self.reach * self.difference_sd / math.sqrt(judgements)

    def said(self, participants: int, each: int) -> str:
        """In a sentence, for so many participants who judge so many conversations each."""
        have, needed = participants * each, self.judgements()
        return (
            f"{participants} participants × {each} conversations give {have:,} judgements of each system and question; "
            f"a difference of {self.difference:g} needs {needed:,} ({math.ceil(needed / each):,} participants), and "
            f"{have:,} show one of {self.detectable(have):.2f} ({self.power:.0%} power, {self.level:.0%} interval, a "
            f"judgement's sd of {self.sd:.2f} assumed, correlation {self.correlation:g})"
        )
