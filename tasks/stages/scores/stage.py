"""Stages `scores` and `scores.calibration`, declared."""

from __future__ import annotations

from tasks.engine.declaration import Calls, Made, NotRun, Reads, Stage
from tasks.stages.inputs import TORCH, dialogue_shards, exchange_shards, label, of_dialogues, seen_as
from tasks.stages.shard_names import of_table


@of_dialogues
def candidate_shards(made: Made) -> Calls | NotRun:
    exchanges = {label(ref): ref.seen_as("words") for ref in exchange_shards(made)}
    return {
        label(ref): {"candidates": ref, "exchanges": exchanges[label(ref)]}
        for ref in of_table(made.refs("candidates"), "candidates")
    }


SCORES = Stage(
    name="scores",
    title="Emotional similarity of candidates",
    flow="make_pairs",
    needs=("candidates", "utterances.exchanges"),
    items=candidate_shards,
    function="tasks.stages.scores.score:score_candidates",
    settings={"settings": "scorer"},
    weights={"scorer": "scorer.weights"},
    libraries=(*TORCH, "pyarrow"),
    own_process=True,  # so that one loaded scorer serves all shards
)


@of_dialogues
def human_replies(made: Made) -> Calls | NotRun:
    if made.settings.pairs.fallback == "none":
        return NotRun("pairs.fallback is none")
    return {"all": {"utterances": seen_as("labels", dialogue_shards(made, "train"))}}


CALIBRATION = Stage(
    name="scores.calibration",
    title="What human replies score",
    flow="make_pairs",
    needs=("utterances",),
    items=human_replies,
    function="tasks.stages.scores.score:calibrate_scores",
    settings={"pairs": Reads("pairs", only=("calibration_pairs", "seed")), "settings": "scorer"},
    weights={"scorer": "scorer.weights"},
    libraries=TORCH,
)
