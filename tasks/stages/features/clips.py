"""Utterances to decoded clips: which files are asked for together, and whose each answer is.

Knows nothing of how clips are decoded (storage/media) or of what becomes of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from model.features.settings import FeatureSettings
from storage.media.clip import Clip, Request
from storage.media.container import MediaError
from storage.media.decoder_pool import DecoderPool
from storage.media.decord_frames import require
from storage.media.pictures import Window
from storage.media.settings import MediaSettings
from storage.utterance import Utterance

MOST_DECODERS = 8


def decode_all(
    clips: list[Utterance], settings: FeatureSettings, media: MediaSettings, root: Path
) -> Iterator[tuple[Utterance, Clip | MediaError]]:
    """Each utterance with its sound and its one window of frames, or why not; in an order of the files.

    A file that holds a whole dialogue is decoded once for all of its utterances, and their sounds one by one, so
    that a bad one costs only its own.
    """
    require(media.decoder)
    groups = _by_video(clips)
    requests = [request for group in groups for request in _requests(group, settings, media, root)]
    with DecoderPool(_decoders(len(requests)), media.timeout_s) as pool:
        answers = pool.map(requests)
        for group in groups:
            if len(group) == 1:
                yield group[0], _whole(next(answers))
            else:
                yield from _joined(group, answers)


def _by_video(clips: list[Utterance]) -> list[list[Utterance]]:
    groups: dict[object, list[Utterance]] = {}
    for clip in clips:
        groups.setdefault(clip.video_path or clip.key, []).append(clip)
    return list(groups.values())


def _requests(
    group: list[Utterance], settings: FeatureSettings, media: MediaSettings, root: Path
) -> Iterator[Request]:
    """One request for the files of a lone utterance; for several one for the video, then one for each sound."""

    def request(video: str | None, audio: str | None, *windows: Window) -> Request:
        return Request(
            str(root.resolve()),
            video,
            audio,
            windows,
            settings.frames,
            max_seconds=settings.max_seconds,
            decoder=media.decoder,
        )

    windows = [Window(_frame_seed(clip, settings), clip.start, clip.end, clip.side) for clip in group]
    video = group[0].video_path
    if len(group) == 1:
        yield request(video, group[0].audio_path, *(windows if video else ()))
        return
    yield request(video, None, *windows)
    yield from (request(None, clip.audio_path) for clip in group if clip.audio_path)


def _frame_seed(clip: Utterance, settings: FeatureSettings) -> int:
    """The frames follow from the clip's content and the seed, never from ids."""
    assert clip.media_digest is not None, "only utterances with media are decoded"
    return int(clip.media_digest[:8], 16) ^ settings.seed


def _whole(answer: Clip | MediaError) -> Clip | MediaError:
    """The answer of a lone utterance; without its frames it is of no use."""
    if isinstance(answer, Clip) and answer.frames and isinstance(answer.frames[0], MediaError):
        return answer.frames[0]
    return answer


def _joined(
    group: list[Utterance], answers: Iterator[Clip | MediaError]
) -> Iterator[tuple[Utterance, Clip | MediaError]]:
    film = next(answers)
    for place, clip in enumerate(group):
        heard = next(answers) if clip.audio_path else None
        if isinstance(film, MediaError):
            yield clip, film
            continue
        seen = film.frames[place]
        if isinstance(seen, MediaError):
            yield clip, seen
            continue
        if isinstance(heard, MediaError):
            yield clip, heard
            continue
        seconds = heard.seconds if heard else (clip.end or film.seconds) - (clip.start or 0.0)
        facts = {**film.facts, **(heard.facts if heard else {})}
        yield clip, Clip(heard.audio if heard else None, (seen,), seconds, facts)


def _decoders(requests: int) -> int:
    """Half the cores: the other half encodes what is decoded."""
    return max(1, min(len(os.sched_getaffinity(0)) // 2, MOST_DECODERS, requests))
