"""Stage `features`, declared."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from tasks.engine.declaration import Calls, Made, NotRun, RawFiles, Stage
from tasks.stages.inputs import NO_MEDIA, TORCH, label
from tasks.stages.shard_names import of_table, place

TEXT_SUFFIXES = frozenset({".csv", ".tsv", ".json", ".jsonl", ".txt", ".md", ".xml"})
"""Of files that hold no clip; an archive may."""


def shards_with_clips(made: Made) -> Calls | NotRun:
    places = _places_with_clips(made)
    shards = of_table(made.refs("utterances"), "utterances")
    found = {label(ref): {"utterances": ref} for ref in shards if place(ref) in places}
    return found or NotRun(NO_MEDIA)


def _places_with_clips(made: Made) -> set[tuple[str, str]]:
    """(dataset, split) that have at least one clip, by the data cards."""
    found = set()
    for ref in (r for r in made.refs("utterances") if r.name.startswith("card/")):
        splits = json.loads(made.store.read(ref))["splits"]
        found |= {(ref.name.split("/")[1], split) for split, facts in splits.items() if facts["with_media"]}
    return found


def may_hold_clips(raw_files: tuple[RawFiles, ...]) -> bool:
    """Whether any file is no plain text. Of the sample corpus, which is filmed when a run first needs it, none is there."""
    names = [name for raw in raw_files for name in raw.files]
    return not names or any(PurePosixPath(name).suffix.lower() not in TEXT_SUFFIXES for name in names)


FEATURES = Stage(
    name="features",
    title="Audio and video features",
    flow="build_shards",
    needs=("utterances",),
    items=shards_with_clips,
    function="tasks.stages.features.extract:extract_features",
    settings={"settings": "features", "media": "media"},
    weights={"audio": "features.audio_weights", "video": "features.video_weights"},
    without_effect=lambda settings: ("features.batch_size",),  # but for last bits
    code=("storage.media.decoder_process:serve",),
    libraries=(*TORCH, "av", "soxr", "decord", "pyarrow"),
    workers="run.feature_workers",
    may_run=may_hold_clips,
)
