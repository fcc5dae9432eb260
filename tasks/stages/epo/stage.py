"""Stages `epo` and `epo.control`, declared: the same training on other pairs of the same exchanges."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

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
from tasks.stages.shard_names import of_table


@of_dialogues
def chosen_pairs(made: Made) -> Calls | NotRun:
    return _pairs_of("pairs", made)


@of_dialogues
def random_pairs(made: Made) -> Calls | NotRun:
    return _pairs_of("pairs.control", made)


def _pairs_of(table: str, made: Made) -> Calls | NotRun:
    """table: the stage whose pairs it learns from. Where there is a control, both learn from the rows that both have."""
    tables = ("pairs", "pairs.control") if made.settings.pairs.control else ("pairs",)
    arms = {name: of_table(made.refs(name), "pairs") for name in tables}
    rows = partial(_rows, arms[tables[-1]])  # a control has no pair that the others lack
    if not rows("train") or not rows("dev"):
        threshold = made.read_json("pairs", "pairs.json")["threshold"]
        return NotRun(
            f"no preference pairs: {rows('train')} in train and {rows('dev')} in dev below the threshold {threshold:g}"
        )
    media = made.ran("dialogue.audiovisual")
    return {
        "all": {
            "pairs": arms.pop(table),
            "other_pairs": [ref for refs in arms.values() for ref in refs],
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
        "pairs.quality",  # which may stop the run
        "pairs.control",  # where it is asked for
        "compressor.finetune",
        "extractor",
        "dialogue.memory",
        "dialogue.audiovisual",
    ),
    items=chosen_pairs,
    function="tasks.stages.epo.fit:fit_epo",
    settings={"dialogue": "dialogue", "settings": "epo"},
    weights={"llm": "llm.weights"},
    libraries=(*TORCH, "peft"),
    trains=True,
)
CONTROL_EPO = replace(
    EPO,
    name="epo.control",
    title="Control: EPO on random replies",
    items=random_pairs,
    asked=lambda settings: settings.pairs.control,
)
