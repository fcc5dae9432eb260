"""Writes the sample corpus as raw trees in the layouts of the MELD, MultiDialog and IEMOCAP releases.

The text files name every dialogue; media files exist for the dialogues marked so in `dialogues.json`, as in
releases where some clips are missing. The same seed gives the same bytes for any number of workers.
Knows nothing of how the trees are read.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from storage.errors import InputError
from storage.sample import MARKER
from storage.sample.clips import write_clips
from storage.sample.places import (
    Span,
    iemocap_names,
    iemocap_session,
    multidialog_stem,
    overlapping,
    turn_after_turn,
)
from storage.sample.script import (
    DATASETS,
    IEMOCAP,
    MELD,
    MULTIDIALOG,
    Line,
    Script,
    digest_seed,
    load_scripts,
)

MELD_HEADER = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID",
    "Season", "Episode", "StartTime", "EndTime",
)  # fmt: skip
MELD_EMOTION = {
    "angry": "anger", "disgust": "disgust", "fearful": "fear", "happy": "joy", "neutral": "neutral",
    "sad": "sadness", "surprise": "surprise",
}  # fmt: skip
MULTIDIALOG_EMOTION = {
    "angry": "Angry", "disgust": "Disgusting", "fearful": "Fear", "happy": "Happy", "neutral": "Neutral",
    "sad": "Sad", "surprise": "Surprising",
}  # fmt: skip
IEMOCAP_EMOTION = {
    "angry": "ang", "disgust": "dis", "fearful": "fea", "happy": "hap", "neutral": "neu", "sad": "sad",
    "surprise": "sur", "excited": "exc", "frustrated": "fru", "undecided": "xxx",
}  # fmt: skip
IEMOCAP_VOTE = {
    "ang": "Anger", "dis": "Disgust", "fea": "Fear", "hap": "Happiness", "neu": "Neutral", "sad": "Sadness",
    "sur": "Surprise", "exc": "Excited", "fru": "Frustration",
}  # fmt: skip
IEMOCAP_AFFECT = {
    "ang": (2.0, 4.0, 4.0), "dis": (2.0, 3.0, 3.0), "fea": (2.0, 3.5, 2.0), "hap": (4.0, 3.0, 3.0),
    "neu": (3.0, 2.5, 2.5), "sad": (2.0, 2.0, 2.5), "sur": (3.0, 3.5, 2.5), "exc": (4.5, 4.0, 3.5),
    "fru": (2.5, 3.0, 3.5), "xxx": (3.0, 2.5, 3.0),
}  # fmt: skip
"""Valence, activation and dominance, 1 to 5."""
TIED_VOTES = ("neu", "fru", "sad")
"""Three evaluators who disagree: no majority, label xxx."""


class SampleError(InputError):
    """The sample cannot be written there."""


def write_sample(
    root: Path,
    seed: int = 0,
    media: bool = True,
    workers: int = 2,
    dialogues: int | None = None,
    turns: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, int]]:
    """Write the raw trees under `root`, all or nothing.

    `seed` moves voices, faces and timings, never the text. Without `media` only the text files are written.
    `workers` processes make the media. `dialogues` keeps at most that many dialogues of every (dataset,
    split), those with media first, and `turns` the first turns of each. progress(utterances filmed, of how many), before
    the first one too. Returns {dataset: {"dialogues", "utterances", "with_media"}}.
    Raises SampleError where `root` exists and is not an empty folder.
    """
    root = Path(root)
    for name, value in (("workers", workers), ("dialogues", dialogues), ("turns", turns)):
        if value is not None and value < 1:
            raise SampleError(f"write_sample: {name} is {value}; give 1 or more")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise SampleError(f"{root}: exists and is not an empty folder; name a new one or remove it")
    scripts = load_scripts(dialogues, turns)
    unfinished = root.with_name(f".{root.name}.partial-{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        _write_meld(unfinished, [s for s in scripts if s.dataset == MELD], seed)
        _write_multidialog(unfinished, [s for s in scripts if s.dataset == MULTIDIALOG])
        _write_iemocap(unfinished, [s for s in scripts if s.dataset == IEMOCAP], seed)
        if media:
            write_clips(unfinished, [s for s in scripts if s.media], seed, workers, progress)
        (unfinished / MARKER).write_text("synthetic faces and voices, made by a procedural actor\n")
        os.replace(unfinished, root)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return {dataset: _count([s for s in scripts if s.dataset == dataset], media) for dataset in DATASETS}


def _count(scripts: list[Script], media: bool) -> dict[str, int]:
    return {
        "dialogues": len(scripts),
        "utterances": sum(len(s.lines) for s in scripts),
        "with_media": sum(len(s.lines) for s in scripts if s.media and media),
    }


# --- text files -------------------------------------------------------------------------------------------


def _write_meld(root: Path, scripts: list[Script], seed: int) -> None:
    for split in dict.fromkeys(s.split for s in scripts):
        rows = [row for s in scripts if s.split == split for row in _meld_rows(s, seed)]
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\r\n")
        writer.writerow(MELD_HEADER)
        writer.writerows([number, *row] for number, row in enumerate(rows, start=1))
        _write_text(root / "MELD.Raw" / f"{split}_sent_emo.csv", table.getvalue())


def _meld_rows(script: Script, seed: int) -> list[tuple]:
    season, episode = 1 + int(script.dialogue_id) % 4, 1 + int(script.dialogue_id)
    offset = 60.0 + digest_seed(seed, "episode", script.split, script.dialogue_id) % 1_200_000 / 1000
    rows = []
    for turn, (line, span) in enumerate(zip(script.lines, turn_after_turn(script, seed), strict=True)):
        label = MELD_EMOTION[line.emotion]
        positive, plain = label == "joy", label in ("neutral", "surprise")
        sentiment = "positive" if positive else "neutral" if plain else "negative"
        times = (_clock(offset + span.start), _clock(offset + span.end))
        rows.append(
            (line.text, line.speaker, label, sentiment, script.dialogue_id, turn, season, episode, *times)
        )
    return rows


def _clock(seconds: float) -> str:
    whole = round(seconds * 1000)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02},{whole % 1000:03}"


def _write_multidialog(root: Path, scripts: list[Script]) -> None:
    for split in dict.fromkeys(s.official_split for s in scripts):
        rows = [row for s in scripts if s.split == split for row in _multidialog_rows(s)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _write_text(root / "MultiDialog" / "metadata" / split / f"{split}_metadata_0000.jsonl", text)


def _multidialog_rows(script: Script) -> list[dict]:
    rows = []
    for turn, line in enumerate(script.lines):
        name = f"{script.dialogue_id}/{multidialog_stem(script, turn)}.wav"
        role = "gpt" if line.speaker == script.lines[0].speaker else "human"
        rows.append(
            {
                "file_name": name,
                "conv_id": script.dialogue_id,
                "utterance_id": turn,
                "from": role,
                "value": line.text,
                "emotion": MULTIDIALOG_EMOTION[line.emotion],
                "original_full_path": f"data/{script.split}/{name}",
            }
        )
    return rows


def _write_iemocap(root: Path, scripts: list[Script], seed: int) -> None:
    for script in scripts:
        dialog = iemocap_session(root, script) / "dialog"
        turns = list(zip(script.lines, iemocap_names(script), overlapping(script, seed), strict=True))
        spoken = "".join(
            f"{name} [{span.start:08.4f}-{span.end:08.4f}]: {line.text}\n" for line, name, span in turns
        )
        _write_text(dialog / "transcriptions" / f"{script.dialogue_id}.txt", spoken)
        header = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        women_first = sorted(turns, key=lambda turn: turn[0].speaker)
        blocks = "".join(_evaluation(line, name, span) for line, name, span in women_first)
        _write_text(dialog / "EmoEvaluation" / f"{script.dialogue_id}.txt", header + blocks)


def _evaluation(line: Line, name: str, span: Span) -> str:
    """The summary line of one utterance, its votes, and a blank line."""
    label = IEMOCAP_EMOTION[line.emotion]
    votes = TIED_VOTES if label == "xxx" else (label,) * 3
    affect = IEMOCAP_AFFECT[label]
    summary = ", ".join(f"{value:.4f}" for value in affect)
    rows = [f"[{span.start:.4f} - {span.end:.4f}]\t{name}\t{label}\t[{summary}]"]
    rows += [f"C-E{number}:\t{IEMOCAP_VOTE[vote]};\t()" for number, vote in enumerate(votes, start=2)]
    rows.append(f"C-{line.speaker}1:\t{IEMOCAP_VOTE[votes[0]]};\t()")
    valence, activation, dominance = (round(value) for value in affect)
    rows += [f"A-E{number}:\tval {valence}; act {activation}; dom  {dominance};\t()" for number in (3, 4)]
    rows.append(f"A-{line.speaker}1:\tval {valence}; act {activation}; dom  {dominance};\t()")
    return "\n".join(rows) + "\n\n"


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))
