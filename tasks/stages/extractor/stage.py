"""Stage `extractor`, declared."""

from __future__ import annotations

from tasks.engine.declaration import Calls, Made, NotRun, Stage
from tasks.stages.inputs import NO_MEDIA, TORCH, seen_as, stand_ins
from tasks.stages.shard_names import of_table


def labelled_clips(made: Made) -> Calls | NotRun:
    """Of dialogues and of single acted clips alike."""
    if not made.ran("features"):
        return NotRun(NO_MEDIA)
    utterances = of_table(made.refs("utterances"), "utterances", "train", "dev")
    features = of_table(made.refs("features"), "features", "train", "dev")
    labelled = seen_as("labels", utterances)
    return {"all": {"utterances": labelled, "features": features, "stand_ins": stand_ins(made)}}


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
)
