"""Stage `long-history`, declared: table 3, by its own protocol."""

from __future__ import annotations

from tasks.engine.declaration import Calls, Made, NotRun, Stage
from tasks.stages.inputs import (
    TORCH,
    dialogue_shards,
    exchange_shards,
    memory_compressor,
    of_dialogues,
    seen_as,
)

NEEDED = ("dialogue.text", "dialogue.memory")


@of_dialogues
def long_exchanges(made: Made) -> Calls | NotRun:
    absent = [stage for stage in NEEDED if not made.ran(stage)]
    if absent:
        return NotRun(f"{' and '.join(absent)} was not run")
    return {
        "all": {
            "utterances": seen_as("words", dialogue_shards(made, "test", "dev")),
            "exchanges": exchange_shards(made, "test", "dev"),
            "text_adapter": made.only("dialogue.text"),
            "memory_adapter": made.only("dialogue.memory"),
            "compressor": memory_compressor(made),
        }
    }


LONG_HISTORY = Stage(
    name="long-history",
    title="Long histories: Table 3",
    flow="write_report",
    needs=("utterances", "utterances.exchanges", "compressor.finetune", *NEEDED),
    items=long_exchanges,
    function="tasks.stages.long_history.measure:measure_long_histories",
    settings={
        "dialogue": "dialogue",
        "settings": "long_history",
        "max_new_tokens": "replies.max_new_tokens",
        "scoring": "metrics.bertscore",
        "intervals": "metrics.intervals",
    },
    weights={"llm": "llm.weights", "bertscore": "metrics.bertscore.weights"},
    libraries=(*TORCH, "peft", "bert-score"),
)
