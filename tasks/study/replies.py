"""What there is to judge: the replies of a run's rungs and systems, or those that stand in its preference pairs.

Knows nothing of who judges them.
"""

from __future__ import annotations

from storage.answers import Pair, Reply
from storage.errors import InputError
from storage.shards import read_table, row_to_exchange, row_to_pair, row_to_reply
from storage.store import Ref, Store
from tasks.engine.planner import StagePlan
from tasks.engine.run import RunRequest
from tasks.stages.floors import HUMAN
from tasks.stages.pairs.stage import CONTROL_PAIRS, PAIRS
from tasks.stages.replies.rungs import CONTROL_RUNGS, LADDER, RUNGS
from tasks.stages.replies.stage import REPLIES
from tasks.stages.shard_names import of_table
from tasks.stages.shards import RowKey
from tasks.stages.systems.stage import SYSTEMS
from tasks.study.study import MOST_SYSTEMS

ANSWERING = (*(stage.name for stage in REPLIES), SYSTEMS.name)
PAIRED = (PAIRS.name, *(stage.name for stage in CONTROL_PAIRS))
OF_PAIRS = {
    "chosen": "the candidate most like the true reply in emotion",
    "rejected": "the counter-emotional candidate",
    **{stage.name.removeprefix("pairs."): stage.title for stage in CONTROL_PAIRS},
}
"""What stands in a pair beside the true reply -> what it is."""


def refs_of(plan: StagePlan) -> list[Ref]:
    return [ref for refs in plan.outputs.values() for ref in refs]


def run_replies(
    request: RunRequest, store: Store, plans: dict[str, StagePlan]
) -> dict[str, dict[RowKey, Reply]]:
    """System -> its replies by exchange, of all that is fresh."""
    there = [plans[name] for name in ANSWERING if name in plans]
    refs = of_table([ref for plan in there if plan.state == "fresh" for ref in refs_of(plan)], "replies")
    found = {
        ref.name.split("/")[-1]: {r.key: r for r in map(row_to_reply, read_table(store.read(ref), "replies"))}
        for ref in refs
    }
    found = {name: said for name, said in found.items() if said}
    if not found or plans["utterances"].state != "fresh":
        stale = ", ".join(plan.stage.name for plan in there if plan.state not in ("fresh", "not run"))
        why = f"{stale} is stale" if stale else "no rung has answered"
        raise InputError(f"there are no replies to judge: {why}; `{request.command('run')}` makes them")
    return found


def pair_replies(
    request: RunRequest, store: Store, plans: dict[str, StagePlan]
) -> dict[str, dict[RowKey, Reply]]:
    """What stands in the pairs of train and dev, by exchange: a kind of reply in place of a system."""
    if any(plans[name].state != "fresh" for name in ("utterances", "utterances.exchanges", PAIRS.name)):
        command = request.command("run", "--until", "pairs")
        raise InputError(f"there are no pairs to judge: {PAIRS.name} is stale; `{command}` makes them")
    refs = of_table(refs_of(plans["utterances.exchanges"]), "exchanges", "train", "dev")
    read = (row_to_exchange(row)[0] for ref in refs for row in read_table(store.read(ref), "exchanges"))
    emotions = {exchange.key: (exchange.sentence_emotion, exchange.reply_emotion) for exchange in read}
    found: dict[str, dict[RowKey, Reply]] = {}

    def add(name: str, pair: Pair, text: str) -> None:
        felt = emotions[pair.key]
        found.setdefault(name, {})[pair.key] = Reply(*pair.key, name, pair.sentence, pair.reply, text, *felt)

    for name in PAIRED:
        plan = plans.get(name)
        for ref in of_table(refs_of(plan), "pairs") if plan is not None and plan.state == "fresh" else []:
            for pair in map(row_to_pair, read_table(store.read(ref), "pairs")):
                add("rejected" if name == PAIRS.name else name.removeprefix("pairs."), pair, pair.rejected)
                if name == PAIRS.name and pair.chosen != pair.reply:
                    add("chosen", pair, pair.chosen)
    if not found:
        raise InputError("there are no pairs to judge: the run kept none")
    return found


def _order(name: str) -> tuple[int, str]:
    """Rungs as in table 2, then the others by name."""
    order = {rung.name: place for place, rung in enumerate(RUNGS)}
    return order.get(name, len(order)), name


def usual_systems(replies: dict[str, dict[RowKey, Reply]]) -> tuple[str, ...]:
    """The ladder's rungs and then the other systems."""
    ladder = [rung.name for rung in LADDER if rung.name in replies]
    controls = {rung.name for rung in CONTROL_RUNGS.values()}
    others = [name for name in replies if name not in ladder and name not in controls]
    return (*ladder, *sorted(others, key=_order))


def chosen_systems(
    named: tuple[str, ...], replies: dict[str, dict[RowKey, Reply]], usual: tuple[str, ...]
) -> tuple[str, ...]:
    """The systems to judge: those named, or the usual ones up to six."""
    known = sorted(replies, key=_order)
    if named:
        absent = [name for name in named if name not in (*known, HUMAN)]
        if absent:
            raise InputError(
                f"--systems: no replies of {', '.join(absent)}; there are {', '.join((*known, HUMAN))}"
            )
        found = tuple(dict.fromkeys(named))
    else:
        found = usual[:MOST_SYSTEMS]
    if len(found) > MOST_SYSTEMS:
        raise InputError(f"--systems: {len(found)} of them; a page shows up to {MOST_SYSTEMS}")
    if not set(found) - {HUMAN}:
        raise InputError("--systems: name at least one that answered, beside the true reply")
    return found
