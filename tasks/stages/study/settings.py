"""Settings of the human study as a run reads it: where its judgements are. There is none unless a run names one.

Knows nothing of how people were asked.
"""

from __future__ import annotations

from pydantic import BaseModel, Field, model_validator


class HumanStudySettings(BaseModel, frozen=True, extra="forbid"):
    """A study that people took part in (section 5.2, docs/study.md)."""

    judgements: str | None = Field(
        None,
        min_length=1,
        description="The judgements.json that `empamba study score` wrote, from this project's folder or absolute; the "
        "report is stale when what it holds changes.",
    )
    pairs: str | None = Field(
        None,
        min_length=1,
        description="Preference pairs that people chose, which EPO trains on in place of the scored ones: the folder that "
        "`empamba study export` wrote, or one Parquet file of its. Not in the paper.",
    )
    beside_scored: bool = Field(
        False,
        description="EPO trains on the scored pairs too; of an exchange that has both, on people's. Not in the paper.",
    )

    @model_validator(mode="after")
    def _names_something(self) -> HumanStudySettings:
        if self.judgements is None and self.pairs is None:
            raise ValueError("name study.judgements, study.pairs or both")
        if self.beside_scored and self.pairs is None:
            raise ValueError("study.beside_scored is of study.pairs, which names none")
        return self
