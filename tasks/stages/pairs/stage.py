"""Stages `pairs`, those of people's choices, `pairs.quality` and those of the controls, declared."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from model.pairs.settings import stage_name
from storage.errors import InputError
from storage.filestat import content_digest
from storage.utterance import SPLITS
from tasks.engine.declaration import Calls, Made, NotRun, RawFiles, Reads, Stage
from tasks.stages.inputs import TORCH, dialogue_shards, exchange_shards, of_dialogues, seen_as, stand_ins
from tasks.stages.shard_names import of_table


@of_dialogues
def all_scores(made: Made) -> Calls | NotRun:
    return {
        "all": {
            "scores": of_table(made.refs("scores"), "scores"),
            "exchanges": exchange_shards(made, "train", "dev"),
            "calibration": made.only("scores.calibration") if made.ran("scores.calibration") else None,
        }
    }


PAIRS = Stage(
    name="pairs",
    title="Preference pairs",
    flow="make_pairs",
    needs=("scores", "scores.calibration", "utterances.exchanges"),
    items=all_scores,
    function="tasks.stages.pairs.choose:choose_pairs",
    settings={
        "settings": Reads("pairs", only=("threshold", "fallback", "least_share", "selection", "chosen")),
    },
    libraries=("pyarrow",),
)


def judged_by_people(settings: Any) -> bool:
    return settings.study is not None and settings.study.pairs is not None


def trained_pairs(settings: Any) -> str:
    """The stage whose pairs EPO trains on."""
    if not judged_by_people(settings):
        return PAIRS.name
    return JOINED.name if settings.study.beside_scored else JUDGED.name


@of_dialogues
def peoples_pairs(made: Made) -> Calls | NotRun:
    return {
        "all": {
            "files": exported_files(Path(made.settings.study.pairs).absolute()),
            "utterances": seen_as("words", dialogue_shards(made)),
            "exchanges": seen_as("words", exchange_shards(made)),
            "stand_ins": stand_ins(made),
        }
    }


def exported_files(path: Path) -> RawFiles:
    """The file, or those of an export's folder, with their digests. InputError where there is none."""
    names = [path.name] if path.is_file() else [f"{split}.parquet" for split in SPLITS]
    folder = path.parent if path.is_file() else path
    try:
        files = {name: content_digest(folder / name) for name in names if (folder / name).is_file()}
    except OSError as error:
        raise InputError(f"study.pairs: {path} cannot be read ({error.strerror})") from None
    if not files:
        raise InputError(
            f"study.pairs: there are no pairs in {path}: name the folder that `empamba study export` wrote, or one of its "
            "Parquet files"
        )
    return RawFiles(dataset="study", folder=str(folder), files=files)


JUDGED = Stage(
    name="pairs.judged",
    title="Pairs that people chose",
    flow="make_pairs",
    needs=("utterances", "utterances.exchanges"),
    items=peoples_pairs,
    function="tasks.stages.pairs.judged:judged_pairs",
    libraries=("pyarrow",),
    enabled=judged_by_people,
)


@of_dialogues
def both_kinds(made: Made) -> Calls | NotRun:
    kinds = {"judged": JUDGED.name, "scored": PAIRS.name}
    return {"all": {kind: of_table(made.refs(name), "pairs") for kind, name in kinds.items()}}


JOINED = Stage(
    name="pairs.joined",
    title="People's pairs beside the scored ones",
    flow="make_pairs",
    needs=("pairs", "pairs.judged"),
    items=both_kinds,
    function="tasks.stages.pairs.judged:joined_pairs",
    libraries=("pyarrow",),
    enabled=lambda settings: judged_by_people(settings) and settings.study.beside_scored,
)
PEOPLES = (JUDGED, JOINED)
"""Where a run names pairs that people chose."""


@of_dialogues
def all_pairs(made: Made) -> Calls | NotRun:
    return {"all": {"pairs": of_table(made.refs(trained_pairs(made.settings)), "pairs")}}


QUALITY = Stage(
    name="pairs.quality",
    title="What else than emotion tells the pairs apart",
    flow="make_pairs",
    needs=("pairs", *(stage.name for stage in PEOPLES)),
    items=all_pairs,
    function="tasks.stages.pairs.choose:check_pairs",
    settings={"settings": "pairs.quality"},
    libraries=("pyarrow", "numpy"),
)


def trained_pairs_and_scores(made: Made, **parts: str) -> Calls:
    """Of EPO's own pairs, whoever chose them, another candidate is the rejected reply."""
    pairs, scores = made.refs(trained_pairs(made.settings)), made.refs("scores")
    return {"all": {"pairs": of_table(pairs, "pairs"), "scores": of_table(scores, "scores"), **parts}}


def scored_pairs_with_their_summary(made: Made) -> Calls:
    pairs = made.refs("pairs")
    summary = next(ref for ref in pairs if ref.name == "pairs.json")
    scores = of_table(made.refs("scores"), "scores")
    return {"all": {"pairs": [*of_table(pairs, "pairs"), summary], "scores": scores}}


def _control(name: str, title: str, **parts) -> Stage:
    """The stage of a control's pairs, where the settings ask for it."""
    return Stage(
        name=stage_name("pairs", name),
        title=f"Control: {title}",
        flow="make_pairs",
        needs=("pairs", *(stage.name for stage in PEOPLES), "scores"),
        enabled=lambda settings: name in settings.pairs.control,
        **parts,
    )


CONTROL_PAIRS = (
    *(
        _control(
            name,
            title,
            items=of_dialogues(partial(trained_pairs_and_scores, control=name)),
            function="tasks.stages.pairs.choose:control_pairs",
            settings={"settings": Reads("pairs", only=("seed",))},
            libraries=("pyarrow",),
        )
        for name, title in (
            ("random", "pairs with a random candidate"),
            ("most_similar", "pairs with the most similar candidate"),
        )
    ),
    _control(
        "shuffled",
        "pairs chosen by another exchange's reply",
        items=of_dialogues(scored_pairs_with_their_summary),
        function="tasks.stages.pairs.choose:shuffled_pairs",
        settings={"settings": Reads("pairs", only=("seed", "chosen", "selection")), "scoring": "scorer"},
        weights={"scorer": "scorer.weights"},
        libraries=(*TORCH, "pyarrow"),
    ),
)
"""Of those controls that have pairs of their own."""
