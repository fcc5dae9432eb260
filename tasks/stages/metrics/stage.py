"""Stage `metrics`, declared."""

from __future__ import annotations

from tasks.engine.declaration import Calls, Made, NotRun, Stage
from tasks.stages.inputs import TORCH, of_dialogues
from tasks.stages.replies.stage import REPLIES
from tasks.stages.shard_names import of_table


@of_dialogues
def all_replies(made: Made) -> Calls | NotRun:
    refs = [ref for stage in made.outputs for ref in made.refs(stage)]
    return {"all": {"replies": of_table(refs, "replies")}}


METRICS = Stage(
    name="metrics",
    title="Metrics of the replies",
    flow="write_report",
    needs=tuple(stage.name for stage in REPLIES),
    items=all_replies,
    function="tasks.stages.metrics.measure:measure_replies",
    settings={"settings": "metrics", "scoring": "scorer"},
    weights={
        "bertscore": "metrics.bertscore.weights",
        "scorer": "scorer.weights",
        "second_scorer": "metrics.second_scorer",
    },
    libraries=(*TORCH, "bert-score"),
)
