"""Stage `judge`, declared: the last rung's replies beside each other rung's and system's, and beside floors and the true reply
where they are named. Only where a run names a judge."""

from __future__ import annotations

from model.generation.settings import TRANSPORT_FIELDS
from storage.store import Ref
from tasks.engine.declaration import Calls, Made, NotRun, Stage, served_weights
from tasks.stages.floors import BESIDE
from tasks.stages.inputs import TORCH, dialogue_shards, of_dialogues, seen_as
from tasks.stages.replies.rungs import LADDER
from tasks.stages.replies.stage import REPLIES
from tasks.stages.shard_names import of_table
from tasks.stages.systems.stage import ANSWERING

ALL_ANSWERING = (*(stage.name for stage in REPLIES), *ANSWERING)


@of_dialogues
def pairs_to_judge(made: Made) -> Calls | NotRun:
    answering = [name for name in ALL_ANSWERING if name in made.outputs]
    refs = of_table([ref for name in answering for ref in made.refs(name)], "replies")
    replies: dict[str, Ref] = {ref.name.split("/")[-1]: ref for ref in refs}
    ran = [rung.name for rung in LADDER if rung.name in replies]
    if not ran:
        return NotRun("no rung answered")
    last, judge = ran[-1], made.settings.judge
    absent = sorted(set(judge.against) - replies.keys() - BESIDE.keys())
    if absent:
        return NotRun(f"judge.against has {', '.join(absent)}, of which there are no replies")
    others = judge.against or [name for name, ref in replies.items() if ref.rows]
    return {
        other: {
            "first": replies[last],
            **({"second": None, "beside": other} if other in BESIDE else {"second": replies[other]}),
            "utterances": seen_as("words", dialogue_shards(made, "test", "dev")),
            "llm": served_weights(judge.server.model),
        }
        for other in others
        if other != last
    }


JUDGE = Stage(
    name="judge",
    title="Replies compared by a judge",
    flow="write_report",
    needs=("utterances", *ALL_ANSWERING),
    items=pairs_to_judge,
    function="tasks.stages.judge.compare:judge_pair",
    settings={"settings": "judge", "intervals": "metrics.intervals"},
    without_effect=lambda settings: [
        "judge.against",
        "judge.every_seed",
        *(f"judge.server.{name}" for name in TRANSPORT_FIELDS),
    ],  # fmt: skip
    code=("model.generation.worker:main",),
    libraries=(*TORCH, "pyarrow"),
    gpus=lambda settings: 0,
    own_process=True,
    repeated="judge.every_seed",
    enabled=lambda settings: settings.judge is not None,
)
