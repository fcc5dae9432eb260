"""Writes the sample corpus as raw trees in the layouts of the MELD, MultiDialog and IEMOCAP releases.

The text files name every dialogue; media files exist for the dialogues marked so in `dialogues.json`, as in
releases where some clips are missing. The same seed gives the same bytes for any number of workers.
Knows nothing of how the trees are read.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.errors import InputError
from storage.sample import MARKER, actor, face
from storage.sample.media import write_avi, write_mp4, write_wav
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

FPS = 12
"""Pictures a second of the per-utterance clips."""
AVI_FPS = 12
MELD_VIDEO = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
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
AVI_HEIGHT, AVI_WIDTH, AVI_HEAD = 480, 720, 256


class SampleError(InputError):
    """The sample cannot be written there."""


@dataclass(frozen=True, slots=True)
class Span:
    """When a line is spoken, in seconds from the start of its dialogue."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Job:
    """The media of one utterance, or of one whole IEMOCAP dialogue (`turn` None), to be made in a worker."""

    script: Script
    turn: int | None
    seed: int
    root: Path


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
    partial = root.with_name(f".{root.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        _write_meld(partial, [s for s in scripts if s.dataset == MELD], seed)
        _write_multidialog(partial, [s for s in scripts if s.dataset == MULTIDIALOG])
        _write_iemocap(partial, [s for s in scripts if s.dataset == IEMOCAP], seed)
        if media:
            _write_media(partial, [s for s in scripts if s.media], seed, workers, progress)
        (partial / MARKER).write_text("synthetic faces and voices, made by a procedural actor\n")
        os.replace(partial, root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
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
    for turn, (line, span) in enumerate(zip(script.lines, _turn_after_turn(script, seed), strict=True)):
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
    for split in dict.fromkeys(s.split for s in scripts):
        rows = [row for s in scripts if s.split == split for row in _multidialog_rows(s)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        _write_text(root / "MultiDialog" / "metadata" / split / f"{split}_metadata_0000.jsonl", text)


def _multidialog_rows(script: Script) -> list[dict]:
    rows = []
    for turn, line in enumerate(script.lines):
        name = f"{script.dialogue_id}/{_multidialog_stem(script, turn)}.wav"
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


def _multidialog_stem(script: Script, turn: int) -> str:
    return f"{script.dialogue_id}_{turn}{script.lines[turn].speaker}"


def _write_iemocap(root: Path, scripts: list[Script], seed: int) -> None:
    for script in scripts:
        dialog = _iemocap_session(root, script) / "dialog"
        turns = list(zip(script.lines, _iemocap_names(script), _overlapping(script, seed), strict=True))
        spoken = "".join(
            f"{name} [{span.start:08.4f}-{span.end:08.4f}]: {line.text}\n" for line, name, span in turns
        )
        _write_text(dialog / "transcriptions" / f"{script.dialogue_id}.txt", spoken)
        header = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        women_first = sorted(turns, key=lambda turn: turn[0].speaker)
        blocks = "".join(_evaluation(line, name, span) for line, name, span in women_first)
        _write_text(dialog / "EmoEvaluation" / f"{script.dialogue_id}.txt", header + blocks)


def _iemocap_session(root: Path, script: Script) -> Path:
    return root / "IEMOCAP_full_release" / f"Session{int(script.dialogue_id[3:5])}"


def _iemocap_names(script: Script) -> list[str]:
    """Utterance names in the order of speaking; each actor is counted separately."""
    spoken = {"F": 0, "M": 0}
    names = []
    for line in script.lines:
        names.append(f"{script.dialogue_id}_{line.speaker}{spoken[line.speaker]:03}")
        spoken[line.speaker] += 1
    return names


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


# --- timing -----------------------------------------------------------------------------------------------


def _seed(script: Script, turn: int, seed: int) -> int:
    return digest_seed(seed, script.dataset, script.split, script.dialogue_id, turn)


def _seconds(script: Script, turn: int, seed: int) -> float:
    line = script.lines[turn]
    return actor.duration(line.text, line.acted, _seed(script, turn, seed))


def _turn_after_turn(script: Script, seed: int) -> list[Span]:
    """Spans with a fifth of a second between turns."""
    spans, now = [], 0.0
    for turn in range(len(script.lines)):
        spans.append(Span(now, now + _seconds(script, turn, seed)))
        now = spans[-1].end + 0.2
    return spans


def _overlapping(script: Script, seed: int) -> list[Span]:
    """Spans that overlap a little, as IEMOCAP's segments do; on the 16 kHz grid."""
    spans, now = [], 0.8
    for turn in range(len(script.lines)):
        start = round(now * actor.RATE) / actor.RATE
        spans.append(Span(start, start + _seconds(script, turn, seed)))
        step = digest_seed("overlap", _seed(script, turn, seed)) % 1000 / 1000
        now = spans[-1].end - 0.15 + 0.4 * step
    return spans


# --- media ------------------------------------------------------------------------------------------------


def _write_media(
    root: Path, scripts: list[Script], seed: int, workers: int, progress: Callable[[int, int], None]
) -> None:
    jobs = []
    # Whole dialogues take longest: first, so that no worker ends alone.
    for script in sorted(scripts, key=lambda s: s.dataset != IEMOCAP):
        turns = (None,) if script.dataset == IEMOCAP else range(len(script.lines))
        jobs += [Job(script, turn, seed, root) for turn in turns]
    total, done = sum(map(_utterances, jobs)), 0
    progress(done, total)
    for job in _made(jobs, workers):
        done += _utterances(job)
        progress(done, total)


def _utterances(job: Job) -> int:
    return len(job.script.lines) if job.turn is None else 1


def _made(jobs: list[Job], workers: int) -> Iterator[Job]:
    """Each job once it is done, in whatever order that is."""
    if workers == 1:
        for job in jobs:
            _make(job)
            yield job
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        running = {pool.submit(_make, job): job for job in jobs}
        try:
            for future in as_completed(running):
                future.result()
                yield running[future]
        except BaseException:  # those that have not begun are not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """A process of the pool waits for work for ever where its parent was killed; a terminal's Ctrl-C is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make(job: Job) -> None:
    makers: dict[str, Callable[[Job], None]] = {
        MELD: _make_meld,
        MULTIDIALOG: _make_multidialog,
        IEMOCAP: _make_iemocap,
    }
    makers[job.script.dataset](job)


def _perform(script: Script, turn: int, seed: int, speaker: str) -> tuple[np.ndarray, np.ndarray]:
    """One utterance: the film [frames, 224, 224, 3] and the samples."""
    line, own = script.lines[turn], _seed(script, turn, seed)
    samples = actor.voice(line.text, line.acted, speaker, own)
    frames = int(len(samples) / actor.RATE * FPS)
    film = face.face(line.acted, speaker, own, frames, actor.loudness(samples, frames, FPS))
    return film, samples


def _make_meld(job: Job) -> None:
    script = job.script
    film, samples = _perform(script, job.turn, job.seed, script.lines[job.turn].speaker)
    folder = _folder(job.root / "MELD.Raw" / MELD_VIDEO[script.split])
    path = folder / f"dia{script.dialogue_id}_utt{job.turn}.mp4"
    write_mp4(path, film, FPS, samples, actor.RATE, channels=2)


def _make_multidialog(job: Job) -> None:
    script = job.script
    film, samples = _perform(script, job.turn, job.seed, f"MultiDialog {script.lines[job.turn].speaker}")
    base, stem = job.root / "MultiDialog", _multidialog_stem(script, job.turn)
    place = Path(script.split) / script.dialogue_id
    write_wav(_folder(base / "data" / place) / f"{stem}.wav", samples, actor.RATE)
    write_mp4(_folder(base / "video" / place) / f"{stem}.mp4", film, FPS, samples, actor.RATE, channels=1)


def _make_iemocap(job: Job) -> None:
    """Sentence wavs, the stereo dialog wav (F left, M right) and the avi of one dialogue."""
    script, session = job.script, _iemocap_session(job.root, job.script)
    spans = _overlapping(script, job.seed)
    length = max(span.end for span in spans) + 0.5
    stereo = np.zeros((round(length * actor.RATE), 2), np.float32)
    sentences = _folder(session / "sentences" / "wav" / script.dialogue_id)
    for turn, (line, name, span) in enumerate(zip(script.lines, _iemocap_names(script), spans, strict=True)):
        speaker = _iemocap_actor(script, line.speaker)
        samples = actor.voice(line.text, line.acted, speaker, _seed(script, turn, job.seed))
        write_wav(sentences / f"{name}.wav", samples, actor.RATE)
        first = round(span.start * actor.RATE)
        near = 0 if line.speaker == "F" else 1
        stereo[first : first + len(samples), near] += samples
        stereo[first : first + len(samples), 1 - near] += 0.15 * samples
    dialog = session / "dialog"
    write_wav(_folder(dialog / "wav") / f"{script.dialogue_id}.wav", stereo, actor.RATE)
    avi = _folder(dialog / "avi" / "DivX") / f"{script.dialogue_id}.avi"
    write_avi(avi, _two_shot(script, spans, stereo, job.seed), AVI_FPS, AVI_HEIGHT, AVI_WIDTH)


def _iemocap_actor(script: Script, letter: str) -> str:
    return f"{script.dialogue_id[:5]}{letter}"


def _two_shot(script: Script, spans: list[Span], stereo: np.ndarray, seed: int) -> np.ndarray:
    """Both actors in one picture: uint8 [frames, 480, 720, 3]; the wearer of the markers on the left."""
    wearer = script.dialogue_id[5]
    halves = {wearer: slice(0, 360), "F" if wearer == "M" else "M": slice(360, 720)}
    frames = int(len(stereo) / actor.RATE * AVI_FPS)
    picture = np.empty((frames, AVI_HEIGHT, AVI_WIDTH, 3), np.uint8)
    for letter, half in halves.items():
        picture[:, :, half] = _one_side(script, spans, stereo, seed, letter, frames)
    return picture


def _one_side(
    script: Script, spans: list[Span], stereo: np.ndarray, seed: int, letter: str, frames: int
) -> np.ndarray:
    """One actor through the whole dialogue, [frames, 480, 360, 3]: acting own lines, resting otherwise.

    The film is cut where the actor's next line begins; between lines the last expression fades to rest.
    """
    own = [turn for turn, line in enumerate(script.lines) if line.speaker == letter]
    starts = [int(spans[turn].start * AVI_FPS) for turn in own]
    cuts = [0, *starts[1:], frames]
    parts = []
    for turn, begin, end in zip(own, cuts[:-1], cuts[1:], strict=True):
        times = np.arange(begin, end) / AVI_FPS
        span = spans[turn]
        speaking = (times >= span.start - 1 / AVI_FPS) & (times < span.end)
        after = np.clip((times - span.end) / 0.4, 0.0, 1.0)
        listening = np.where(times < span.start - 1 / AVI_FPS, 1.0, after)
        near = stereo[:, 0 if letter == "F" else 1]
        first, last = int(begin * actor.RATE / AVI_FPS), int(end * actor.RATE / AVI_FPS)
        loud = actor.loudness(near[first:last], end - begin, AVI_FPS) * speaking
        emotion, speaker = script.lines[turn].acted, _iemocap_actor(script, letter)
        parts.append(
            face.face(
                emotion, speaker, _seed(script, turn, seed), end - begin, loud,
                AVI_HEIGHT, AVI_WIDTH // 2, AVI_HEAD, supersample=1, listening=listening,
            )
        )  # fmt: skip
    return np.concatenate(parts)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
