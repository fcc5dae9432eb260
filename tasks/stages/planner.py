"""Which items are stale, and running them in order, as many at once as may be.

The same walk serves `status` (nothing runs; behind a stale stage all is unknown until it has run) and `run`
(stale items are handed to `submit`; a stage is planned once what it needs has settled). Knows nothing of
Prefect or of what any stage does.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

from storage.store import Ref, Store
from tasks.stages.stage import Item, Stage, fresh_record, reasons

Outputs = dict[str, tuple[Ref, ...]]
"""A settled stage's artefacts by item label."""


@dataclass(frozen=True)
class NotRun:
    """A stage that this run has nothing for, and why: "no media"."""

    reason: str


@dataclass(frozen=True)
class Node:
    """A stage in the graph. items(outputs of the needed stages) says what to run; None for one not run."""

    stage: Stage
    needs: tuple[str, ...]
    items: Callable[[dict[str, Outputs | None]], list[Item] | NotRun]


@dataclass
class StagePlan:
    """What the planner found for one stage; `outputs` fill up as items settle."""

    stage: Stage
    state: str
    """"fresh", "stale", "unknown" or "not run"."""
    items: list[Item] = field(default_factory=list)
    stale: dict[str, list[str]] = field(default_factory=dict)
    """Label -> reasons."""
    reason: str = ""
    outputs: Outputs = field(default_factory=dict)

    def as_dict(self) -> dict:
        told = [self.reason] if self.reason else []
        told += list(dict.fromkeys(line for lines in self.stale.values() for line in lines))
        return {
            "stage": self.stage.name,
            "state": self.state,
            "items": len(self.items),
            "stale_items": len(self.stale),
            "reasons": told,
        }


def plan_stage(store: Store, node: Node, settled: dict[str, StagePlan]) -> StagePlan:
    """Plan one stage whose needs have settled."""
    needed = {
        name: None if settled[name].state == "not run" else settled[name].outputs for name in node.needs
    }
    items = node.items(needed)
    if isinstance(items, NotRun):
        return StagePlan(node.stage, "not run", reason=items.reason)
    plan = StagePlan(node.stage, "fresh", items)
    for item in items:
        parts = item.parts()
        record, amiss = fresh_record(store, node.stage.name, item.key(parts))
        if record is None:
            plan.stale[item.label] = reasons(store, item, parts, amiss)
        else:
            plan.outputs[item.label] = record.outputs
    if plan.stale:
        plan.state = "stale"
    return plan


def plan_all(store: Store, graph: list[Node]) -> list[StagePlan]:
    """The plan without running anything."""
    settled: dict[str, StagePlan] = {}
    for node in graph:
        waits = [name for name in node.needs if settled[name].state in ("stale", "unknown")]
        if waits:
            first = next((n for n in waits if settled[n].state == "stale"), waits[0])
            reason = f"unknown until {first} has run"
            settled[node.stage.name] = StagePlan(node.stage, "unknown", reason=reason)
        else:
            settled[node.stage.name] = plan_stage(store, node, settled)
    return list(settled.values())


Submit = Callable[[Item, list[str]], Future]
"""submit(item, reasons) starts an item and returns a future of its artefacts."""


def run_graph(
    store: Store,
    graph: list[Node],
    settled: dict[str, StagePlan],
    submit: Submit,
    on_settled: Callable[[StagePlan], None],
) -> None:
    """Run what is stale in `graph`; `settled` holds earlier stages and gains these.

    Stages whose needs are settled run side by side. The first failure stops new work, waits for what runs,
    and is raised.
    """
    pending = list(graph)
    running: dict[Future, tuple[StagePlan, Item]] = {}
    failure: BaseException | None = None

    def settle(plan: StagePlan) -> None:
        settled[plan.stage.name] = plan
        on_settled(plan)

    while True:
        ready = [n for n in pending if all(name in settled for name in n.needs)] if failure is None else []
        for node in ready:
            pending.remove(node)
            plan = plan_stage(store, node, settled)
            for item in (i for i in plan.items if i.label in plan.stale):
                running[submit(item, plan.stale[item.label])] = (plan, item)
            if not plan.stale:
                settle(plan)
        if not running:
            if failure is not None:
                raise failure
            if not pending:
                return
            if not ready:
                raise ValueError(f"{pending[0].stage.name} needs a stage that is not in the graph")
            continue
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            plan, item = running.pop(future)
            try:
                plan.outputs[item.label] = tuple(future.result())
            except BaseException as error:  # noqa: BLE001 - kept, and raised once nothing runs
                failure = failure or error
                continue
            if len(plan.outputs) == len(plan.items):
                settle(plan)
