"""Settings of the human study as a run reads it: where its judgements are. There is none unless a run names one.

Knows nothing of how people were asked.
"""

from __future__ import annotations

from pydantic import BaseModel, Field


class HumanStudySettings(BaseModel, frozen=True, extra="forbid"):
    """A study that people took part in (section 5.2, docs/study.md)."""

    judgements: str = Field(
        min_length=1,
        description="The judgements.json that `empamba study score` wrote, from this project's folder or absolute; the "
        "report is stale when what it holds changes.",
    )
