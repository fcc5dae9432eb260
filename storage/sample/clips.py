"""The sample's sounds and films, performed by the actor and the drawn face, in the places where a release has them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np

from storage.sample import actor, face
from storage.sample.media import write_avi, write_mp4, write_wav
from storage.sample.places import (
    Span,
    iemocap_names,
    iemocap_session,
    line_seed,
    multidialog_stem,
    overlapping,
)
from storage.sample.script import IEMOCAP, MELD, Script

AVI_HEIGHT, AVI_WIDTH, AVI_HEAD = 480, 720, 256
FPS = 12
"""Pictures a second of the per-utterance clips."""
AVI_FPS = 12
MELD_VIDEO = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}


def write_clips(
    root: Path, scripts: list[Script], seed: int, workers: int, progress: Callable[[int, int], None]
) -> None:
    """progress(utterances filmed, of how many), before the first one too."""
    # Whole dialogues take longest: first, so that no worker ends alone.
    jobs: list[Callable[[], int]] = [
        partial(_make_iemocap, root, script, seed) for script in scripts if script.dataset == IEMOCAP
    ]
    for script in scripts:
        if script.dataset != IEMOCAP:
            make = _make_meld if script.dataset == MELD else _make_multidialog
            jobs += [partial(make, root, script, turn, seed) for turn in range(len(script.lines))]
    done, total = 0, sum(len(script.lines) for script in scripts)
    progress(done, total)
    for filmed in _done(jobs, workers):
        done += filmed
        progress(done, total)


def _done(jobs: list[Callable[[], int]], workers: int) -> Iterator[int]:
    """How many utterances each job has filmed, as soon as it has, in whatever order."""
    if workers == 1:
        for job in jobs:
            yield job()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        running = [pool.submit(job) for job in jobs]
        try:
            for future in as_completed(running):
                yield future.result()
        except BaseException:  # those that have not begun are not begun, and a half-made film is of no use
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _end_with_parent() -> None:
    """A process of the pool waits for work for ever where its parent was killed; a terminal's Ctrl-C is the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _perform(script: Script, turn: int, seed: int, speaker: str) -> tuple[np.ndarray, np.ndarray]:
    """One utterance: the film [frames, 224, 224, 3] and the samples."""
    line, own = script.lines[turn], line_seed(script, turn, seed)
    samples = actor.voice(line.text, line.acted, speaker, own)
    frames = int(len(samples) / actor.RATE * FPS)
    film = face.face(line.acted, speaker, own, frames, actor.loudness(samples, frames, FPS))
    return film, samples


def _make_meld(root: Path, script: Script, turn: int, seed: int) -> int:
    film, samples = _perform(script, turn, seed, script.lines[turn].speaker)
    folder = _folder(root / "MELD.Raw" / MELD_VIDEO[script.official_split])
    path = folder / f"dia{script.dialogue_id}_utt{turn}.mp4"
    write_mp4(path, film, FPS, samples, actor.RATE, channels=2)
    return 1


def _make_multidialog(root: Path, script: Script, turn: int, seed: int) -> int:
    film, samples = _perform(script, turn, seed, f"MultiDialog {script.lines[turn].speaker}")
    base, stem = root / "MultiDialog", multidialog_stem(script, turn)
    place = Path(script.official_split) / script.dialogue_id
    write_wav(_folder(base / "data" / place) / f"{stem}.wav", samples, actor.RATE)
    write_mp4(_folder(base / "video" / place) / f"{stem}.mp4", film, FPS, samples, actor.RATE, channels=1)
    return 1


def _make_iemocap(root: Path, script: Script, seed: int) -> int:
    """Sentence wavs, the stereo dialog wav (F left, M right) and the avi of one dialogue."""
    session = iemocap_session(root, script)
    spans = overlapping(script, seed)
    length = max(span.end for span in spans) + 0.5
    stereo = np.zeros((round(length * actor.RATE), 2), np.float32)
    sentences = _folder(session / "sentences" / "wav" / script.dialogue_id)
    for turn, (line, name, span) in enumerate(zip(script.lines, iemocap_names(script), spans, strict=True)):
        speaker = _iemocap_actor(script, line.speaker)
        samples = actor.voice(line.text, line.acted, speaker, line_seed(script, turn, seed))
        write_wav(sentences / f"{name}.wav", samples, actor.RATE)
        first = round(span.start * actor.RATE)
        near = 0 if line.speaker == "F" else 1
        stereo[first : first + len(samples), near] += samples
        stereo[first : first + len(samples), 1 - near] += 0.15 * samples
    dialog = session / "dialog"
    write_wav(_folder(dialog / "wav") / f"{script.dialogue_id}.wav", stereo, actor.RATE)
    avi = _folder(dialog / "avi" / "DivX") / f"{script.dialogue_id}.avi"
    write_avi(avi, _two_shot(script, spans, stereo, seed), AVI_FPS, AVI_HEIGHT, AVI_WIDTH)
    return len(script.lines)


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
                emotion, speaker, line_seed(script, turn, seed), end - begin, loud,
                AVI_HEIGHT, AVI_WIDTH // 2, AVI_HEAD, supersample=1, listening=listening,
            )
        )  # fmt: skip
    return np.concatenate(parts)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
