"""Stage `features`: the clips of one utterance shard -> hidden states of the audio and the video encoder.

A row is looked up by what it is made from before anything is decoded. A clip that cannot be decoded becomes a
reject with its reason. Knows nothing of decoding (storage/media) or of the encoders (model/features).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from model.features.encoders import AudioEncoder, VideoEncoder, load_video_encoder
from model.features.settings import FeatureSettings
from model.zoo.resolve import resolve
from storage.media import MediaError, Window, decode_audio, decode_windows
from storage.shards import pack_array, read_table, reject_to_row, row_to_utterance, write_table
from storage.store import Ref, canonical
from storage.utterance import Reject, Utterance
from tasks.shard_names import place, shard_name
from tasks.shards import write_shard
from tasks.stages.stage import Weights, Workspace


def extract_features(
    utterances: Ref, settings: FeatureSettings, audio: Weights, video: Weights, work: Workspace
) -> list[Ref]:
    """Outputs: features/… of the shard's utterances that have media, rejects/…"""
    dataset, split = place(utterances)
    bucket = int(utterances.name.split("/")[-1])
    clips = [
        u
        for u in map(row_to_utterance, read_table(work.store.read(utterances), "utterances"))
        if u.media_digest
    ]
    memo = work.store.rows("features")
    keys = {u.key: work.row_key(u.media_digest, settings.model_dump(mode="json")) for u in clips}
    known = memo.get_many(keys.values())
    missing = [clip for clip in clips if keys[clip.key] not in known]
    rejects = []
    for done, (clip, made) in enumerate(_extract_all(missing, settings, audio.name, video.name, work.raw)):
        if isinstance(made, Reject):
            rejects.append(reject_to_row(made, "features"))
        else:
            known[keys[clip.key]] = _pack(made)
            memo.put(keys[clip.key], known[keys[clip.key]])
        work.progress(done + 1, len(missing), {})
    memo.close()
    rows = [
        {**_key_columns(clip), **_unpack(known[keys[clip.key]]), "media_digest": clip.media_digest}
        for clip in clips
        if keys[clip.key] in known
    ]
    name = shard_name("features", dataset, split, bucket)
    turned_away = write_table(rejects, "rejects")
    return [
        write_shard(work.store, "features", name, rows, rejects=len(rejects)),
        work.store.put_bytes(f"rejects/{dataset}/{split}/{bucket}", turned_away, rejects=len(rejects)),
    ]


def _key_columns(clip: Utterance) -> dict:
    return {"dataset": clip.dataset, "split": clip.split, "dialogue_id": clip.dialogue_id, "turn": clip.turn}


def _extract_all(
    clips: list[Utterance], settings: FeatureSettings, audio: str, video: str, root: Path
) -> Iterator[tuple[Utterance, dict | Reject]]:
    """Each clip with its blobs and shapes, or with the reject of what cannot be decoded."""
    for clip, pictures in _frames_of_all(clips, settings, root):
        try:
            if isinstance(pictures, MediaError):
                raise pictures
            sound = decode_audio(root / clip.audio_path, settings.max_seconds) if clip.audio_path else None
        except MediaError as error:
            yield clip, Reject(*clip.key, reason=error.reason, detail=str(error))
            continue
        heard = None if sound is None else _audio_encoder(audio, settings.dtype).states(sound).numpy()
        seen = None if pictures is None else _video_encoder(video, settings).states(pictures).numpy()
        row = {}
        for name, states in (("audio", heard), ("video", seen)):
            row[name], row[f"{name}_shape"] = pack_array(states)
        yield clip, row


def _frames_of_all(
    clips: list[Utterance], settings: FeatureSettings, root: Path
) -> Iterator[tuple[Utterance, np.ndarray | MediaError | None]]:
    """Each clip's frames; a file that holds a whole dialogue is decoded once for all of its utterances."""
    by_file: dict[str | None, list[Utterance]] = {}
    for clip in clips:
        by_file.setdefault(clip.video_path, []).append(clip)
    for path, members in by_file.items():
        if path is None:
            yield from ((clip, None) for clip in members)
            continue
        windows = [Window(_frame_seed(clip, settings), clip.start, clip.end, clip.side) for clip in members]
        try:
            pictures = decode_windows(root / path, windows, settings.frames)
        except MediaError as error:
            pictures = [error] * len(members)
        yield from zip(members, pictures, strict=True)


def _frame_seed(clip: Utterance, settings: FeatureSettings) -> int:
    """The frames follow from the clip's content and the seed, never from ids."""
    return int(clip.media_digest[:8], 16) ^ settings.seed


@cache
def _audio_encoder(name: str, dtype: str) -> AudioEncoder:
    return AudioEncoder.load(resolve(name), dtype)


@cache
def _video_encoder(name: str, settings: FeatureSettings) -> VideoEncoder:
    return load_video_encoder(resolve(name), settings.video_tokens_per_frame, settings.dtype)


def _pack(blobs: dict) -> bytes:
    """One row for the row store: a JSON line of shapes, then the two blobs."""
    sizes = {name: None if blobs[name] is None else len(blobs[name]) for name in ("audio", "video")}
    head = canonical({"sizes": sizes, "shapes": {n: blobs[f"{n}_shape"] for n in ("audio", "video")}})
    return head + b"\n" + (blobs["audio"] or b"") + (blobs["video"] or b"")


def _unpack(data: bytes) -> dict:
    head, rest = data.split(b"\n", 1)
    facts = json.loads(head)
    row = {}
    for name in ("audio", "video"):
        size = facts["sizes"][name]
        row[name], rest = (None, rest) if size is None else (rest[:size], rest[size:])
        row[f"{name}_shape"] = facts["shapes"][name]
    return row
