"""Stages `compressor.pretrain` and `compressor.finetune`, declared."""

from __future__ import annotations

import json

from model.compressor.settings import CompressorSettings
from model.zoo.resolve import cached_folder
from tasks.engine.declaration import Calls, Made, NotRun, Reads, Stage, named_weights
from tasks.settings import Settings
from tasks.stages.inputs import TORCH, dialogue_shards, of_dialogues, seen_as, stand_ins

ALLOW_SLOW_SCAN = "run.allow_slow_scan"


@of_dialogues
def single_utterances(made: Made) -> Calls | NotRun:
    settings = made.settings.compressor
    base = _base(settings)
    splits = ("dev",) if settings.pretrained else ("train", "dev")
    utterances = seen_as("words", dialogue_shards(made, *splits))
    base_weights = named_weights(base) if base else None
    return {"all": {"utterances": utterances, "base": base_weights, "stand_ins": stand_ins(made)}}


def _base(settings: CompressorSettings) -> str:
    """What pretraining goes on from, or takes as it is; "" where it starts from nothing."""
    return settings.pretrained or settings.weights


def another_form(settings: Settings) -> str | None:
    """A span or a prompt that is asked of a pretrained compressor and is not its own, which it keeps.

    The defaults ask for nothing. A folder that cannot be read is told by what loads it.
    """
    asked = settings.compressor
    if not asked.pretrained:
        return None
    try:
        own = json.loads((cached_folder(asked.pretrained) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kept = f"and {asked.pretrained} (compressor.pretrained) keeps what it was made with,"
    span = own.get("memory_span")
    if asked.memory_span not in (None, span):
        its = "one memory an utterance" if span is None else f"{span}"
        return f"compressor.memory_span is {asked.memory_span}, {kept} {its}; leave it at null, or take another compressor"
    if asked.prompt == "bare" and own.get("prompt") != "bare":
        return f"compressor.prompt is bare, {kept} table 5; set compressor.prompt=paper, or take another compressor"
    return None


PRETRAIN = Stage(
    name="compressor.pretrain",
    title="MambaCompressor, single utterances",
    flow="train_models",
    needs=("utterances",),
    items=single_utterances,
    function="tasks.stages.compressor.fit:pretrain_compressor",
    settings={
        "settings": Reads("compressor", without=("finetune", "window_curriculum")),
        "allow_slow_scan": ALLOW_SLOW_SCAN,
    },
    without_effect=lambda settings: (ALLOW_SLOW_SCAN,),
    weights={"llm": "llm.weights"},
    loads=lambda settings: filter(None, [_base(settings.compressor)]),
    fault=another_form,
    libraries=(*TORCH, "peft"),
    trains=True,
    anew=True,
)


@of_dialogues
def whole_dialogues(made: Made) -> Calls | NotRun:
    utterances = seen_as("words", dialogue_shards(made, "train", "dev"))
    pretrained = made.only("compressor.pretrain")
    return {"all": {"utterances": utterances, "compressor": pretrained, "stand_ins": stand_ins(made)}}


FINETUNE = Stage(
    name="compressor.finetune",
    title="MambaCompressor, whole dialogues",
    flow="train_models",
    needs=("utterances", "compressor.pretrain"),
    items=whole_dialogues,
    function="tasks.stages.compressor.fit:finetune_compressor",
    settings={"settings": Reads("compressor", without=("pretrain",)), "allow_slow_scan": ALLOW_SLOW_SCAN},
    without_effect=lambda settings: (ALLOW_SLOW_SCAN,),
    weights={"llm": "llm.weights"},
    libraries=(*TORCH, "peft"),
    trains=True,
    seeds=("compressor.finetune.seed",),
)
