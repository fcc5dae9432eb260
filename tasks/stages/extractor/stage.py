"""Stages `extractor` and `extractor.test`, declared."""

from __future__ import annotations

from storage.readers.registry import SINGLE_CLIPS
from tasks.engine.declaration import Calls, Made, NotRun, Stage
from tasks.stages.inputs import NO_MEDIA, TORCH, seen_as, stand_ins
from tasks.stages.shard_names import of_table, place


def labelled_clips(made: Made) -> Calls | NotRun:
    """Of dialogues and of single acted clips alike."""
    if not made.ran("features"):
        return NotRun(NO_MEDIA)
    return {"all": _clips(made, "train", "dev")}


def clips_to_recognise(made: Made) -> Calls | NotRun:
    """As `labelled_clips`; where a dataset has no test split, dev stands in."""
    if not made.ran("extractor"):
        return NotRun(NO_MEDIA)
    return {"all": {**_clips(made, "test", "dev"), "extractor": made.only("extractor")}}


def _clips(made: Made, *splits: str) -> dict:
    utterances = of_table(made.refs("utterances"), "utterances", *splits)
    features = of_table(made.refs("features"), "features", *splits)
    labelled = seen_as("labels", utterances)
    return {
        "utterances": labelled,
        "features": features,
        "stand_ins": stand_ins(made),
        "single_clips": sorted(SINGLE_CLIPS & {place(ref)[0] for ref in utterances}),
    }


EXTRACTOR = Stage(
    name="extractor",
    title="Audio-visual emotion extractor",
    flow="train_models",
    needs=("utterances", "features"),
    items=labelled_clips,
    function="tasks.stages.extractor.fit:fit_extractor",
    settings={"settings": "extractor"},
    weights={"llm": "llm.weights"},
    libraries=TORCH,
    trains=True,
    anew=True,
    seeds=("extractor.training.seed",),
)
RECOGNITION = Stage(
    name="extractor.test",
    title="Emotion recognition on test",
    flow="write_report",
    needs=("utterances", "features", "extractor"),
    items=clips_to_recognise,
    function="tasks.stages.extractor.recognise:recognise_test",
    settings={
        "settings": "recognition",
        "dtype": "extractor.training.dtype",
        "threads": "extractor.training.threads",
        "intervals": "metrics.intervals",
    },
    weights={"llm": "llm.weights"},
    libraries=TORCH,
    repeated=True,
)
