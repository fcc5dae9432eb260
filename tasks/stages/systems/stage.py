"""Stage `systems`, declared: the systems of table 1 that are no rung, an item each. Only where a run names some."""

from __future__ import annotations

from tasks.engine.declaration import Calls, Made, Reads, Stage, Weights, named_weights, served_weights
from tasks.settings import Settings
from tasks.stages.inputs import TORCH, dialogue_shards, exchange_shards, of_dialogues, seen_as
from tasks.stages.systems.settings import ChatbotSystem, EndpointSystem, System


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
    settings={"settings": "replies", "dialogue": Reads("dialogue", only=("max_history_utterances",))},
    code=("model.generation.worker:main",),
    libraries=(*TORCH, "pyarrow"),
    loads=lambda settings: [system.weights for system in _chatbots(settings)],
    gpus=lambda settings: int(bool(_chatbots(settings))),
    own_process=True,
    enabled=lambda settings: bool(settings.systems),
)
