"""Stage `metrics`, declared."""

from __future__ import annotations

from tasks.engine.declaration import Calls, Made, NotRun, Stage
from tasks.stages.inputs import TORCH, of_dialogues
from tasks.stages.replies.stage import REPLIES
from tasks.stages.shard_names import of_table
from tasks.stages.systems.stage import ANSWERING


@of_dialogues
def all_replies(made: Made) -> Calls | NotRun:
    refs = [ref for stage in made.outputs for ref in made.refs(stage)]
    # A file of its own, so that a changed dialogue of train makes no metrics stale unless it changes these replies.
    train = next((ref for ref in made.refs("utterances.exchanges") if ref.name == "train_replies.json"), None)
    titles = {system.row: system.shown for system in made.settings.systems}
    return {"all": {"replies": of_table(refs, "replies"), "train": train, "titles": titles}}


METRICS = Stage(
    name="metrics",
    title="Metrics of the replies",
    flow="write_report",
    needs=("utterances.exchanges", *(stage.name for stage in REPLIES), *ANSWERING),
    items=all_replies,
    function="tasks.stages.metrics.measure:measure_replies",
    settings={"settings": "metrics", "scoring": "scorer"},
    weights={
        "bertscore": "metrics.bertscore.weights",
        "scorer": "scorer.weights",
        "second_scorer": "metrics.second_scorer",
    },
    libraries=(*TORCH, "bert-score", "pyarrow"),
    repeated=True,
)
