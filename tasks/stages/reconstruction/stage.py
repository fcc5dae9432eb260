"""Stage `compressor.test`, declared: table 8, of the run's own finetuned compressor."""

from __future__ import annotations

from tasks.engine.declaration import Calls, Made, NotRun, Stage
from tasks.stages.inputs import TORCH, dialogue_shards, of_dialogues, seen_as, stand_ins


@of_dialogues
def restored_dialogues(made: Made) -> Calls | NotRun:
    if not made.ran("compressor.finetune"):
        return NotRun("compressor.finetune was not run")
    utterances = seen_as("words", dialogue_shards(made, "test", "dev"))
    compressor = made.only("compressor.finetune")
    return {"all": {"utterances": utterances, "compressor": compressor, "stand_ins": stand_ins(made)}}


RECONSTRUCTION = Stage(
    name="compressor.test",
    title="Conversations restored from memories: Table 8",
    flow="write_report",
    needs=("utterances", "compressor.finetune"),
    items=restored_dialogues,
    function="tasks.stages.reconstruction.restore:restore_conversations",
    settings={
        "settings": "reconstruction",
        "dtype": "compressor.finetune.dtype",
        "scoring": "metrics.bertscore",
        "intervals": "metrics.intervals",
    },
    weights={"llm": "llm.weights", "bertscore": "metrics.bertscore.weights"},
    libraries=(*TORCH, "peft", "bert-score"),
    repeated=True,
)
