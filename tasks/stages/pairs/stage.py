"""Stages `pairs`, `pairs.quality` and `pairs.control`, declared."""

from __future__ import annotations

from tasks.engine.declaration import Calls, Made, NotRun, Reads, Stage
from tasks.stages.inputs import exchange_shards, of_dialogues
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
        "settings": Reads("pairs", only=("threshold", "fallback", "least_share", "selection")),
    },
    libraries=("pyarrow",),
)


@of_dialogues
def all_pairs(made: Made) -> Calls | NotRun:
    return {"all": {"pairs": of_table(made.refs("pairs"), "pairs")}}


QUALITY = Stage(
    name="pairs.quality",
    title="What else than emotion tells the pairs apart",
    flow="make_pairs",
    needs=("pairs",),
    items=all_pairs,
    function="tasks.stages.pairs.choose:check_pairs",
    settings={"settings": "pairs.quality"},
    libraries=("pyarrow", "numpy"),
)


@of_dialogues
def pairs_and_scores(made: Made) -> Calls | NotRun:
    pairs, scores = of_table(made.refs("pairs"), "pairs"), of_table(made.refs("scores"), "scores")
    return {"all": {"pairs": pairs, "scores": scores}}


CONTROL_PAIRS = Stage(
    name="pairs.control",
    title="Control: pairs with a random candidate",
    flow="make_pairs",
    needs=("pairs", "scores"),
    items=pairs_and_scores,
    function="tasks.stages.pairs.choose:random_pairs",
    settings={"settings": Reads("pairs", only=("seed",))},
    libraries=("pyarrow",),
    asked=lambda settings: settings.pairs.control,
)
