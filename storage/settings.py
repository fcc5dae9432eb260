"""Settings of reading the raw releases.

Plain pydantic models; knows nothing of how the settings are used.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, field_validator

from storage.utterance import Emotion


class LabelPolicy(BaseModel, frozen=True, extra="forbid"):
    """Targets of the labels whose mapping is a choice. None: no target, the turn stays as context."""

    iemocap_excited: Emotion | None = Field(
        "happy", description="IEMOCAP `exc`; not in the paper: the usual merge with happiness"
    )
    iemocap_frustrated: Emotion | None = Field(
        None, description="IEMOCAP `fru`; not in the paper: none of the seven emotions; some map it to angry"
    )
    ravdess_calm: Emotion | None = Field(
        "neutral", description="RAVDESS `02`; not in the paper: calm is no emotion of recognition"
    )
    topical_chat_curious: Emotion | None = Field(
        "neutral", description="Topical-Chat `Curious to dive deeper`; not in the paper"
    )
    map: dict[str, Emotion | None] = Field(
        {},
        description="Foreign label -> one of the seven emotions, or null; goes before every table. `dataset/label` "
        "is of one dataset alone, as in dailydialog/0; not in the paper",
    )

    @field_validator("map")
    @classmethod
    def _lower_case(cls, value: dict) -> dict:
        return {label.strip().lower(): emotion for label, emotion in value.items()}


class ReadLimits(BaseModel, frozen=True, extra="forbid"):
    """What is still read of raw files: beyond, a file is an error, and a row or a member is rejected."""

    text_mb: int = Field(
        1024, ge=1, description="Megabytes of a text file that is read whole; not in the paper"
    )
    text_chars: int = Field(
        20_000, ge=1, le=100_000, description="Characters of one utterance; not in the paper"
    )
    members: int = Field(250_000, ge=1, description="Members of one archive; not in the paper")
    member_mb: int = Field(256, ge=1, description="Megabytes of one member; not in the paper")
    archive_ratio: int = Field(
        100, ge=1, description="How many times its own size an archive may inflate to; not in the paper"
    )


class FetchLimits(BaseModel, frozen=True, extra="forbid"):
    """What `fetch` still waits for and takes: settings of that command alone."""

    window_s: float = Field(
        60.0, gt=0, description="Seconds over which a server's silence or pace is judged."
    )
    slowest_bytes_s: int = Field(
        1000, ge=0, description="Bytes a second below which a download is given up; 0: however slow."
    )
    page_mb: int = Field(64, ge=1, description="Megabytes of a list of files.")
    unpublished_gb: int = Field(64, ge=1, description="Gigabytes of a file whose size is not published.")


class DataSettings(BaseModel, frozen=True, extra="forbid"):
    """What is read of each dataset, and how a dataset without official splits is split."""

    dialogues: int | None = Field(
        None,
        ge=1,
        description="Read the N dialogues (RAVDESS, CREMA-D: clips) of smallest seeded hash per dataset, each keeping "
        "its official split; None reads all. Not in the paper",
    )
    seed: int = Field(0, description="Seed of the subset and of the splits; not in the paper")
    bucket_rows: int = Field(500, ge=1, description="Rows aimed at per shard; not in the paper")
    iemocap_test_share: float = Field(
        0.1, gt=0, lt=1, description="Share of IEMOCAP dialogues in test (section 4.1 splits it 90/10)"
    )
    iemocap_test_session: int | None = Field(
        None,
        ge=1,
        le=5,
        description="Leave one session (two speakers) out as IEMOCAP's test, in place of the share; not in the paper",
    )
    test_share: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of the dialogues in test, of other datasets without splits (DailyDialog while its splits "
        "are packed away, own dialogues that name none); not in the paper",
    )
    actor_test_share: float = Field(
        0.1, gt=0, lt=1, description="Share of the RAVDESS and CREMA-D actors in test; not in the paper"
    )
    validation_share: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Share of the train dialogues (RAVDESS, CREMA-D: actors) that become dev where a release has "
        "none; not in the paper",
    )
    known_bad: Literal["withdraw", "keep"] = Field(
        "withdraw",
        description="What happens to clips that public issues report as bad (storage/readers/known_bad.py); not in "
        "the paper",
    )
    multidialog_video: str = Field(
        "{conversation}_{turn}{actor}",
        description="Name, without suffix, of a MultiDialog video of one utterance: the videos are not in the "
        "release's repository and their naming is not documented; not in the paper",
    )
    ravdess_song: bool = Field(True, description="RAVDESS song beside speech; the paper does not say")
    crema_d_label: Literal["intended", "votes"] = Field(
        "intended",
        description="CREMA-D: the emotion acted, or the majority of those who saw and heard the clip (a tie is no "
        "label); the paper does not say",
    )
    labels: LabelPolicy = LabelPolicy()
    limits: ReadLimits = ReadLimits()
