"""Stages `pairs`, `pairs.quality` and those of the controls, declared."""

from __future__ import annotations

from functools import partial

from model.pairs.settings import stage_name
from tasks.engine.declaration import Calls, Made, NotRun, Reads, Stage
from tasks.stages.inputs import TORCH, exchange_shards, of_dialogues
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


def pairs_and_scores(made: Made, **parts: str) -> Calls:
    scores = of_table(made.refs("scores"), "scores")
    return {"all": {"pairs": of_table(made.refs("pairs"), "pairs"), "scores": scores, **parts}}


def pairs_with_their_summary(made: Made) -> Calls:
    summary = next(ref for ref in made.refs("pairs") if ref.name == "pairs.json")
    (call,) = pairs_and_scores(made).values()
    return {"all": {**call, "pairs": [*call["pairs"], summary]}}


def _control(name: str, title: str, **parts) -> Stage:
    """The stage of a control's pairs, where the settings ask for it."""
    return Stage(
        name=stage_name("pairs", name),
        title=f"Control: {title}",
        flow="make_pairs",
        needs=("pairs", "scores"),
        enabled=lambda settings: name in settings.pairs.control,
        **parts,
    )


CONTROL_PAIRS = (
    *(
        _control(
            name,
            title,
            items=of_dialogues(partial(pairs_and_scores, control=name)),
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
        items=of_dialogues(pairs_with_their_summary),
        function="tasks.stages.pairs.choose:shuffled_pairs",
        settings={"settings": Reads("pairs", only=("seed", "chosen", "selection")), "scoring": "scorer"},
        weights={"scorer": "scorer.weights"},
        libraries=(*TORCH, "pyarrow"),
    ),
)
"""Of those controls that have pairs of their own."""
