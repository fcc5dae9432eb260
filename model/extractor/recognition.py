"""Figure 6: what a finished extractor says of clips it never saw, in every input setting.

Each clip is shown in each setting for which it has the modalities, and, where the setting shows a clip, once more with
another clip in its place: what the LLM answers to any clip at all. Knows nothing of datasets, splits or intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model.extractor.extractor import load_extractor
from model.extractor.recognise import EMOTIONS
from model.extractor.rows import (
    INPUT_SETTINGS,
    EmotionExample,
    Recogniser,
    Row,
    possible,
    rows_with_other_clips,
)
from model.llm import load_llm
from model.training import Progress

Answers = list[dict[str, str | None]]
"""By clip: input setting -> the emotion answered; None where the clip, or another one for it, lacks what it shows."""


def recognised(
    llm_folder: Path,
    extractor_folder: Path,
    clips: Sequence[EmotionExample],
    batch: int,
    dtype: str = "bfloat16",
    progress: Progress | None = None,
) -> tuple[Answers, Answers]:
    """The answers to each clip, and to each with another clip's features, in every one of INPUT_SETTINGS."""
    llm, tokenizer = load_llm(llm_folder, dtype)
    recogniser = Recogniser(llm, tokenizer, load_extractor(extractor_folder).to(llm.device))
    own: Answers = [{} for _ in clips]
    other: Answers = [{} for _ in clips]
    for number, setting in enumerate(INPUT_SETTINGS):
        shown = [i for i, clip in enumerate(clips) if possible(clip, (setting,))]
        rows = [Row(clips[i], setting) for i in shown]
        for answers, asked in ((own, rows), (other, rows_with_other_clips(rows))):
            predictions = _predictions(recogniser, [row for row in asked if row is not None], batch)
            for i, row in zip(shown, asked, strict=True):
                answers[i][setting] = None if row is None else next(predictions)
        if progress is not None:
            progress(number + 1, len(INPUT_SETTINGS), {})
    whole = dict.fromkeys(INPUT_SETTINGS)
    return [{**whole, **answer} for answer in own], [{**whole, **answer} for answer in other]


def _predictions(recogniser: Recogniser, rows: Sequence[Row], batch: int):
    best = recogniser.scores(rows, batch).argmax(1).tolist() if rows else []
    return iter([EMOTIONS[i] for i in best])
