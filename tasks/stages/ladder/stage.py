"""Stages `ladder.fit.ARM` and `ladder`, declared: what each way of giving the history is worth on the same replies."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from tasks.engine.declaration import Calls, Made, Reads, Stage
from tasks.stages.inputs import TORCH, dialogue_shards, exchange_shards, of_dialogues, seen_as, stand_ins
from tasks.stages.ladder.arms import ARMS, Arm


def own_training(arm: Arm, made: Made) -> Calls:
    return {
        "all": {
            "arm": arm.name,
            "utterances": seen_as("words", dialogue_shards(made, "train", "dev")),
            "exchanges": seen_as("words", exchange_shards(made, "train", "dev")),
            "compressor": made.only("compressor.finetune") if arm.needs_compressor else None,
            "stand_ins": stand_ins(made),
            **({"reader_of": made.only("compressor.finetune")} if _from_reader(made.settings) else {}),
        }
    }


def _trained(arm: Arm, settings: Any) -> bool:
    return arm.name in settings.ladder.trained


def _from_reader(settings: Any) -> bool:
    return settings.ladder.start_from_reader


def _fit(arm: Arm) -> Stage:
    return Stage(
        name=f"ladder.fit.{arm.name}",
        title=f"Memory ladder, LoRA: {arm.title}",
        flow="train_models",
        needs=(
            "utterances",
            "utterances.exchanges",
            *(("compressor.finetune",) if arm.needs_compressor else ()),
        ),
        items=of_dialogues(partial(own_training, arm)),
        function="tasks.stages.ladder.fit:fit_arm",
        settings={"dialogue": "dialogue", "training": "ladder.training"},
        weights={"llm": "llm.weights"},
        libraries=(*TORCH, "peft"),
        trains=True,
        anew=True,
        seeds=("ladder.training.seed",),
        enabled=partial(_trained, arm),
    )


def _fit_without_compressor(arm: Arm) -> tuple[Stage, Stage]:
    """The arm's stage, which waits for no compressor; and in its place, where the reader is the start, one that does."""
    stage = _fit(arm)
    return (
        replace(stage, enabled=lambda settings: _trained(arm, settings) and not _from_reader(settings)),
        replace(
            stage,
            needs=(*stage.needs, "compressor.finetune"),
            enabled=lambda settings: _trained(arm, settings) and _from_reader(settings),
        ),
    )


FITS = tuple(
    stage
    for arm in ARMS.values()
    for stage in ((_fit(arm),) if arm.needs_compressor else _fit_without_compressor(arm))
)


@of_dialogues
def arms(made: Made) -> Calls:
    own = {arm: f"ladder.fit.{arm}" for arm in made.settings.ladder.trained}
    return {
        "all": {
            "utterances": seen_as("words", dialogue_shards(made, "test", "dev")),
            "exchanges": exchange_shards(made, "test", "dev"),
            "own_adapters": {arm: made.only(stage) for arm, stage in own.items()},
            "text_adapter": made.only("dialogue.text"),
            "memory_adapter": made.only("dialogue.memory"),
            "compressor": made.only("compressor.finetune"),
        }
    }


LADDER = Stage(
    name="ladder",
    title="Memory ladder",
    flow="write_report",
    needs=(
        "utterances",
        "utterances.exchanges",
        "compressor.finetune",
        "dialogue.text",
        "dialogue.memory",
        *dict.fromkeys(stage.name for stage in FITS),
    ),
    items=arms,
    function="tasks.stages.ladder.measure:measure_ladder",
    settings={
        "dialogue": "dialogue",
        "settings": Reads("ladder", only=("arms", "exchanges", "least_history", "timed", "seed")),
        "intervals": "metrics.intervals",
    },
    weights={"llm": "llm.weights"},
    libraries=(*TORCH, "peft"),
    enabled=lambda settings: bool(settings.ladder.arms),
    repeated=True,
)
