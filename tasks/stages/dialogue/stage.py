"""Stages `dialogue.…`, declared: a LoRA for each way of giving the LLM its history (table 2)."""

from __future__ import annotations

from dataclasses import replace

from tasks.engine.declaration import Calls, Made, NotRun, Stage
from tasks.stages.inputs import (
    NO_MEDIA,
    TORCH,
    dialogue_features,
    dialogue_shards,
    exchange_shards,
    memory_compressor,
    of_dialogues,
    seen_as,
    stand_ins,
)


@of_dialogues
def text(made: Made) -> Calls | NotRun:
    return _call(made, history="text")


@of_dialogues
def memory(made: Made) -> Calls | NotRun:
    return _call(made, history="memory", compressor=memory_compressor(made))


@of_dialogues
def audiovisual(made: Made) -> Calls | NotRun:
    if not made.ran("extractor"):
        return NotRun(NO_MEDIA)
    return _call(
        made,
        history="memory",
        compressor=memory_compressor(made),
        extractor=made.only("extractor"),
        features=dialogue_features(made, "train", "dev"),
    )


@of_dialogues
def text_audiovisual(made: Made) -> Calls | NotRun:
    if not made.ran("extractor"):
        return NotRun(NO_MEDIA)
    return _call(
        made,
        history="text",
        extractor=made.only("extractor"),
        features=dialogue_features(made, "train", "dev"),
    )


def _call(made: Made, **parts) -> Calls:
    return {
        "all": {
            "utterances": seen_as("words", dialogue_shards(made, "train", "dev")),
            "exchanges": seen_as("words", exchange_shards(made, "train", "dev")),
            "features": [],
            "compressor": None,
            "extractor": None,
            "stand_ins": stand_ins(made),
            **parts,
        }
    }


TEXT = Stage(
    name="dialogue.text",
    title="Dialogue LoRA, history as text",
    flow="train_models",
    needs=("utterances", "utterances.exchanges"),
    items=text,
    function="tasks.stages.dialogue.fit:fit_dialogue",
    settings={"settings": "dialogue"},
    weights={"llm": "llm.weights"},
    libraries=(*TORCH, "peft"),
    trains=True,
    anew=True,
    seeds=("dialogue.training.seed",),
)
MEMORY = replace(
    TEXT,
    name="dialogue.memory",
    title="Dialogue LoRA, history as memories",
    needs=(*TEXT.needs, "compressor.finetune"),
    items=memory,
)
AUDIOVISUAL = replace(
    TEXT,
    name="dialogue.audiovisual",
    title="Dialogue LoRA, memories and audio-visual",
    needs=(*MEMORY.needs, "features", "extractor"),
    items=audiovisual,
)
TEXT_AUDIOVISUAL = replace(
    TEXT,
    name="dialogue.text-audiovisual",
    title="Dialogue LoRA, history as text and audio-visual",
    needs=(*TEXT.needs, "features", "extractor"),
    items=text_audiovisual,
    enabled=lambda settings: settings.ladder.full_text_audiovisual,
)
