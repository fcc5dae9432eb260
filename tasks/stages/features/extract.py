"""Stage `features`: the clips of one utterance shard -> hidden states of the audio and the video encoder.

A row is looked up by what it is made from before anything is decoded; utterances that share a clip share its row. A
clip that cannot be used becomes a reject with its reason. Knows nothing of decoding (storage/media) or of the
encoders (model/features).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache

from model.features.encoders import AudioEncoder, VideoEncoder, load_video_encoder
from model.features.settings import FeatureSettings
from model.zoo.resolve import resolve
from storage.media.clip import Clip
from storage.media.container import MediaError
from storage.media.settings import MediaSettings
from storage.shards import pack_array, read_table, reject_to_row, row_to_utterance, write_table
from storage.store import Ref, canonical
from storage.utterance import Reject, Utterance
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.features.clips import decode_all
from tasks.stages.shard_names import place, shard_name
from tasks.stages.shards import write_shard


def extract_features(
    utterances: Ref,
    settings: FeatureSettings,
    media: MediaSettings,
    audio: Weights,
    video: Weights,
    work: Workspace,
) -> list[Ref]:
    """Outputs: features/… of the shard's utterances that have media, rejects/…, media/… (what the clips are)."""
    dataset, split = place(utterances)
    bucket = int(utterances.name.split("/")[-1])
    clips = [
        u
        for u in map(row_to_utterance, read_table(work.store.read(utterances), "utterances"))
        if u.media_digest
    ]
    made_with = [settings.model_dump(mode="json"), media.decoder]
    keys = {u.key: work.row_key(u.media_digest, *made_with) for u in clips}
    memo = work.store.rows("features")
    known = memo.get_many(keys.values())
    missing = list({keys[u.key]: u for u in reversed(clips) if keys[u.key] not in known}.values())[::-1]
    failed: dict[str, MediaError] = {}
    for done, (clip, decoded) in enumerate(decode_all(missing, settings, media, work.raw)):
        if isinstance(decoded, MediaError):
            failed[keys[clip.key]] = decoded
        else:
            known[keys[clip.key]] = _pack(_encode(decoded, settings, audio.name, video.name), decoded)
            memo.put(keys[clip.key], known[keys[clip.key]])
        work.progress(done + 1, len(missing), {})
    memo.close()
    rows, facts, rejects = [], {}, []
    for clip in clips:
        error = failed.get(keys[clip.key])
        if error is None:
            row, clip_facts = _unpack(known[keys[clip.key]])
            error = _mis_cut(clip, clip_facts["seconds"], media)
        if error is not None:
            rejects.append(Reject(*clip.key, error.reason, str(error)))
            continue
        facts[clip] = clip_facts
        rows.append({**_key_columns(clip), **row, "media_digest": clip.media_digest})
    place_name = f"{dataset}/{split}/{bucket}"
    turned_away = write_table([reject_to_row(r, "features") for r in rejects], "rejects")
    return [
        write_shard(work.store, "features", shard_name("features", dataset, split, bucket), rows, rejects=len(rejects)),
        work.store.put_bytes(f"rejects/{place_name}", turned_away, rejects=len(rejects)),
        work.store.put_bytes(f"media/{place_name}", canonical(summary(facts, rejects))),
    ]  # fmt: skip


def _mis_cut(clip: Utterance, seconds: float, media: MediaSettings) -> MediaError | None:
    """Why the clip is not the utterance its release lists, if it is not."""
    if clip.seconds is None or media.mis_cut_seconds is None:
        return None
    if abs(seconds - clip.seconds) <= media.mis_cut_seconds:
        return None
    path = clip.audio_path or clip.video_path or ""
    return MediaError("mis_cut", path, f"lasts {seconds:.2f} s, the release says {clip.seconds:.2f} s")


def summary(facts: dict[Utterance, dict], rejects: list[Reject]) -> dict:
    """What the clips of one shard are: hours, streams, who decoded them, and which utterances share a clip."""
    shared: dict[str, list[str]] = defaultdict(list)
    for clip in facts:
        shared[str(clip.media_digest)].append(f"{clip.dialogue_id} turn {clip.turn}")
    return {
        "clips": len(facts),
        "seconds": round(sum(clip_facts["seconds"] for clip_facts in facts.values()), 2),
        "bytes": sum(clip_facts[kind]["bytes"] for clip_facts in facts.values() for kind in ("audio", "video") if kind in clip_facts),
        "picture": _counted(f"{v['codec']} {v['width']}x{v['height']} at {v['rate']:.3f}" for v in _streams(facts, "video")),
        "sound": _counted(f"{a['codec']} {a['rate']} Hz {a['layout'] or a['channels']}, {a['mono']}" for a in _streams(facts, "audio")),
        "decoder": _counted(v["decoder"] for v in _streams(facts, "video")),
        "rejects": _counted(reject.reason for reject in rejects),
        "shared": sorted(names for names in shared.values() if len(names) > 1),
    }  # fmt: skip


def _streams(facts: dict[Utterance, dict], kind: str) -> list[dict]:
    return [clip_facts[kind] for clip_facts in facts.values() if kind in clip_facts]


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _key_columns(clip: Utterance) -> dict:
    return {"dataset": clip.dataset, "split": clip.split, "dialogue_id": clip.dialogue_id, "turn": clip.turn}


def _encode(clip: Clip, settings: FeatureSettings, audio: str, video: str) -> dict:
    """Blobs and shapes of one decoded clip."""
    heard = None if clip.audio is None else _audio_encoder(audio, settings.dtype).states(clip.audio).numpy()
    film = clip.frames[0] if clip.frames else None
    assert not isinstance(film, MediaError), "a clip without its frames is an error of its own"
    seen = None if film is None else _video_encoder(video, settings).states(film).numpy()
    row: dict = {}
    for name, states in (("audio", heard), ("video", seen)):
        row[name], row[f"{name}_shape"] = pack_array(states)
    return row


@cache
def _audio_encoder(name: str, dtype: str) -> AudioEncoder:
    return AudioEncoder.load(resolve(name), dtype)


@cache
def _video_encoder(name: str, settings: FeatureSettings) -> VideoEncoder:
    return load_video_encoder(resolve(name), settings.video_tokens_per_frame, settings.dtype)


def _pack(blobs: dict, clip: Clip) -> bytes:
    """One row for the row store: a JSON line of shapes and of what the clip is, then the two blobs."""
    sizes = {name: None if blobs[name] is None else len(blobs[name]) for name in ("audio", "video")}
    shapes = {name: blobs[f"{name}_shape"] for name in ("audio", "video")}
    clip_facts = {**clip.facts, "seconds": clip.seconds}
    head = canonical({"sizes": sizes, "shapes": shapes, "clip": clip_facts})
    return head + b"\n" + (blobs["audio"] or b"") + (blobs["video"] or b"")


def _unpack(data: bytes) -> tuple[dict, dict]:
    """Blobs and shapes, and what the clip is."""
    head, rest = data.split(b"\n", 1)
    facts = json.loads(head)
    row: dict = {}
    for name in ("audio", "video"):
        size = facts["sizes"][name]
        row[name], rest = (None, rest) if size is None else (rest[:size], rest[size:])
        row[f"{name}_shape"] = facts["shapes"][name]
    return row, facts["clip"]
