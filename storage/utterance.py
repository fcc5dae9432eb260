"""The one record that runs through the pipeline, and the record of what was rejected.

Knows nothing of datasets' file formats, of Parquet, or of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Emotion = Literal["angry", "disgust", "fearful", "happy", "neutral", "sad", "surprise"]
"""The seven emotions of recognition, in the paper's order (section 3.1). The model's own list is in model/prompts."""

EMOTIONS: tuple[str, ...] = get_args(Emotion)

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn of one dialogue.

    The key is (dataset, split, dialogue_id, turn); ids that a release repeats across splits are never
    used alone. Paths are relative to the raw root the reader was given; "x.tar.gz::name" is a member of an
    archive (storage/archives). `start` and `end` (seconds) and
    `side` ("left" or "right" half of the picture) are set where the video file holds a whole dialogue;
    they apply to the video, the audio file always holds exactly the utterance.
    """

    dataset: str
    split: str
    dialogue_id: str
    turn: int
    speaker: str
    text: str
    emotion: str | None = None
    """One of EMOTIONS, or None where the release gives no target label (the turn stays as context)."""
    emotion_raw: str | None = None
    """The label as the release spells it."""
    video_path: str | None = None
    audio_path: str | None = None
    start: float | None = None
    end: float | None = None
    side: str | None = None
    seconds: float | None = None
    """How long the release says the utterance lasts; None where it does not say. Not the clip's own length."""
    media_digest: str | None = None
    """Digest of the media files, span and side together; None without media."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        return (self.dataset, self.split, self.dialogue_id, self.turn)


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that a stage rejected, and why. `detail` is for people."""

    dataset: str
    split: str
    dialogue_id: str
    turn: int | None
    reason: str
    detail: str
