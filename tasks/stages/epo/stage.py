"""Stages `epo` and its controls, declared: the same training on other pairs of the same exchanges; and their test."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from model.pairs.settings import CONTROLS, stage_name
from tasks.engine.declaration import Calls, Made, NotRun, Stage
from tasks.stages.inputs import (
    TORCH,
    dialogue_features,
    dialogue_shards,
    exchange_shards,
    memory_compressor,
    of_dialogues,
    seen_as,
)
from tasks.stages.pairs.stage import CONTROL_PAIRS, PEOPLES, judged_by_people, trained_pairs
from tasks.stages.shard_names import of_table


def arms(made: Made) -> dict[str, list]:
    """The stages whose pairs are trained on in this run -> their shards."""
    controls = (stage_name("pairs", name) for name in made.settings.pairs.control if name != "nll")
    return {name: of_table(made.refs(name), "pairs") for name in (trained_pairs(made.settings), *controls)}


def own_pairs(table: str | None, control: str, made: Made) -> Calls | NotRun:
    """table: the stage whose pairs it learns from; None: EPO's own. All arms learn from the rows that every one of them has.

    control: "" for EPO itself, which the others follow step by step.
    """
    if control and not made.ran("epo"):
        return NotRun("epo was not run")
    shards = arms(made)
    train, dev = (min(_rows(refs, split) for refs in shards.values()) for split in ("train", "dev"))
    if (not train or not dev) and judged_by_people(made.settings):
        return NotRun(
            f"too few pairs that people chose: {train} in train and {dev} in dev, which chooses the checkpoint; "
            "study.beside_scored=true trains on the scored ones too"
        )
    if not train or not dev:
        threshold = made.read_json("pairs", "pairs.json")["threshold"]
        return NotRun(
            f"no preference pairs: {train} in train and {dev} in dev below the threshold {threshold:g}"
        )
    media = made.ran("dialogue.audiovisual")
    return {
        "all": {
            "pairs": shards.pop(table or trained_pairs(made.settings)),
            "other_pairs": shards,
            "preference": control != "nll",
            "follows": made.only("epo") if control else None,
            "utterances": seen_as("words", dialogue_shards(made, "train", "dev")),
            "exchanges": seen_as("words", exchange_shards(made, "train", "dev")),
            "features": dialogue_features(made, "train", "dev") if media else [],
            "adapter": made.only("dialogue.audiovisual" if media else "dialogue.memory"),
            "compressor": memory_compressor(made),
            "extractor": made.only("extractor") if media else None,
        }
    }


def _rows(refs: list, split: str) -> int:
    return sum(ref.rows for ref in of_table(refs, "pairs", split))


EPO = Stage(
    name="epo",
    title="Emotion preference optimization",
    flow="train_models",
    needs=(
        "utterances",
        "utterances.exchanges",
        "features",
        "pairs",
        *(stage.name for stage in PEOPLES),  # where a run names them
        "pairs.quality",  # which may stop the run
        *(stage.name for stage in CONTROL_PAIRS),  # where they are asked for
        "compressor.finetune",
        "extractor",
        "dialogue.memory",
        "dialogue.audiovisual",
    ),
    items=of_dialogues(partial(own_pairs, None, "")),
    function="tasks.stages.epo.fit:fit_epo",
    settings={"dialogue": "dialogue", "settings": "epo"},
    weights={"llm": "llm.weights"},
    libraries=(*TORCH, "peft"),
    trains=True,
    seeds=("epo.training.seed",),
)
TITLES = {
    "random": "EPO on random replies",
    "most_similar": "EPO on the most similar replies",
    "shuffled": "EPO on pairs chosen by another exchange's reply",
    "nll": "the autoregressive loss alone",
}


def _control(name: str) -> Stage:
    table = None if name == "nll" else stage_name("pairs", name)
    return replace(
        EPO,
        name=stage_name("epo", name),
        title=f"Control: {TITLES[name]}",
        needs=(*EPO.needs, "epo"),
        items=of_dialogues(partial(own_pairs, table, name)),
        enabled=lambda settings: name in settings.pairs.control,
    )


CONTROLS_OF_EPO = tuple(map(_control, CONTROLS))


@of_dialogues
def trained(made: Made) -> Calls | NotRun:
    """The adapter they all went on from, and each of theirs."""
    if not made.ran("epo"):
        return NotRun("epo was not run")
    media = made.ran("dialogue.audiovisual")
    stages = {name: stage_name("epo", name) for name in made.settings.pairs.control}
    return {
        "all": {
            "utterances": seen_as("words", dialogue_shards(made, "test", "dev")),
            "exchanges": exchange_shards(made, "test", "dev"),
            "features": dialogue_features(made, "test", "dev") if media else [],
            "before": made.only("dialogue.audiovisual" if media else "dialogue.memory"),
            "after": {"epo": made.only("epo")}
            | {name: made.only(stage) for name, stage in stages.items() if made.ran(stage)},
            "compressor": memory_compressor(made),
            "extractor": made.only("extractor") if media else None,
        }
    }


EPO_TEST = Stage(
    name="epo.test",
    title="What EPO moved",
    flow="write_report",
    needs=(
        "utterances",
        "utterances.exchanges",
        "features",
        "compressor.finetune",
        "extractor",
        "dialogue.memory",
        "dialogue.audiovisual",
        "epo",
        *(stage.name for stage in CONTROLS_OF_EPO),
    ),
    items=trained,
    function="tasks.stages.epo.measure:measure_epo",
    settings={
        "dialogue": "dialogue",
        "settings": "epo_test",
        "scoring": "scorer",
        "intervals": "metrics.intervals",
    },
    weights={"llm": "llm.weights", "scorer": "metrics.second_scorer"},
    libraries=(*TORCH, "peft"),
    enabled=lambda settings: settings.epo_test.exchanges > 0,
    repeated=True,
)
