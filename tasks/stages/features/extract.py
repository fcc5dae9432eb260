"""Stage `features`: the clips of one utterance shard -> hidden states of the audio and the video encoder.

A row is looked up by what it is made from before anything is decoded; utterances that share a clip share its row. A
clip that cannot be used becomes a reject with its reason. Knows nothing of decoding (storage/media) or of the
encoders (model/features).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice

import numpy as np

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
from tasks.stages.features.encoded import Encoded, EncodedClips
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
    made_with = [settings.model_dump(mode="json", exclude={"batch_size"}), media.decoder]
    keys = {u.key: work.row_key(u.media_digest, *made_with) for u in clips}
    encoded = EncodedClips(work.store)
    try:
        known = encoded.known(keys.values())
        missing = list({keys[u.key]: u for u in reversed(clips) if keys[u.key] not in known}.values())[::-1]
        failed: dict[str, MediaError] = {}
        done = 0
        for batch in _batches(decode_all(missing, settings, media, work.raw), settings.batch_size):
            whole = {keys[clip.key]: found for clip, found in batch if isinstance(found, Clip)}
            failed |= {keys[clip.key]: found for clip, found in batch if isinstance(found, MediaError)}
            for key, finished in _encode(whole, settings, audio.name, video.name).items():
                known[key] = finished
                encoded.keep(key, finished)
            done += len(batch)
            work.progress(done, len(missing), {})
        rows, facts, rejects = [], {}, []
        for clip in clips:
            error = failed.get(keys[clip.key]) or _mis_cut(
                clip, known[keys[clip.key]].facts["seconds"], media
            )
            if error is not None:
                rejects.append(Reject(*clip.key, error.reason, str(error)))
                continue
            facts[clip] = known[keys[clip.key]].facts
            columns = known[keys[clip.key]].columns
            rows.append({**_key_columns(clip), **columns, "media_digest": clip.media_digest})
        name = shard_name("features", dataset, split, bucket)
        shard = write_shard(work.store, "features", name, rows, rejects=len(rejects))
        encoded.place(shard, {clip.key: (keys[clip.key], known[keys[clip.key]]) for clip in facts})
    finally:
        encoded.close()
    place_name = f"{dataset}/{split}/{bucket}"
    turned_away = write_table([reject_to_row(r, "features") for r in rejects], "rejects")
    return [
        shard,
        work.store.put_bytes(f"rejects/{place_name}", turned_away, rejects=len(rejects)),
        work.store.put_bytes(f"media/{place_name}", canonical(summary(facts, rejects))),
    ]


def _batches(
    decoded: Iterator[tuple[Utterance, Clip | MediaError]], size: int
) -> Iterator[list[tuple[Utterance, Clip | MediaError]]]:
    """So many at a time, as they come; the last may be fewer."""
    while batch := list(islice(decoded, size)):
        yield batch


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


def _encode(clips: dict[str, Clip], settings: FeatureSettings, audio: str, video: str) -> dict[str, Encoded]:
    """Decoded clips by some key -> each as it is stored."""
    sounds = {key: clip.audio for key, clip in clips.items() if clip.audio is not None}
    films = {key: film for key, clip in clips.items() if (film := _film(clip)) is not None}
    heard = _audio_encoder(audio, settings).states_of(list(sounds.values())) if sounds else []
    seen = _video_encoder(video, settings).states_of(list(films.values())) if films else []
    states = {"audio": dict(zip(sounds, heard, strict=True)), "video": dict(zip(films, seen, strict=True))}
    found = {}
    for key, clip in clips.items():
        columns: dict = {}
        for name, of in states.items():
            columns[name], columns[f"{name}_shape"] = pack_array(of[key].numpy() if key in of else None)
        found[key] = Encoded(columns, {**clip.facts, "seconds": clip.seconds})
    return found


def _film(clip: Clip) -> np.ndarray | None:
    """The frames of a clip's one window; None of a clip without a picture."""
    film = clip.frames[0] if clip.frames else None
    assert not isinstance(film, MediaError), "a clip without its frames is an error of its own"
    return film


@cache
def _audio_encoder(name: str, settings: FeatureSettings) -> AudioEncoder:
    return AudioEncoder.load(resolve(name), settings.dtype, settings.audio_window_s)


@cache
def _video_encoder(name: str, settings: FeatureSettings) -> VideoEncoder:
    return load_video_encoder(resolve(name), settings.video_tokens_per_frame, settings.dtype)
