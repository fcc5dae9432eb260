"""Which items are stale, and running them in order, as many at once as may be.

The same walk serves `status` (nothing runs; behind a stale stage all is unknown until it has run) and `run`
(stale items are handed to `submit`; a stage is planned once what it needs has settled). Knows nothing of
Prefect or of what any stage does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from storage.errors import InputError
from storage.store import Ref, Store, StoreError
from tasks.engine.declaration import NotRun, Outputs, Stage
from tasks.engine.item import Item, fresh_record, reasons
from tasks.engine.retrain import RetrainSettings, deferred, warm_started

Items = Callable[[dict[str, Outputs | None]], list[Item] | NotRun]


@dataclass(frozen=True)
class Node:
    """A stage in the graph. items(outputs of the needed stages) says what to run; None for one not run."""

    stage: Stage
    needs: tuple[str, ...]
    items: Items
    explain: Callable[[Item, tuple[Ref, ...]], list[str]] | None = None
    """explain(item, its last outputs) says what changed inside the raw files it reads; only asked when stale."""
    retrain: RetrainSettings | None = None
    """For a trained stage: when changed rows make it stale."""
    forced: bool = False
    """Every item runs, whatever its record."""


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
    behind: dict[str, str] = field(default_factory=dict)
    """Label -> how far an item that may wait is behind its data."""

    def item(self, label: str) -> Item:
        """The item of this label. LookupError where there is none."""
        found = next((item for item in self.items if item.label == label), None)
        if found is None:
            raise LookupError(f"{self.stage.name} has no item {label!r}")
        return found

    def as_dict(self) -> dict:
        lines = [self.reason] if self.reason else []
        lines += list(dict.fromkeys(line for reasons in self.stale.values() for line in reasons))
        lines += list(dict.fromkeys(self.behind.values()))
        return {
            "stage": self.stage.name,
            "state": self.state,
            "items": len(self.items),
            "stale_items": len(self.stale),
            "reasons": lines,
        }


def plan_stage(store: Store, node: Node, settled: dict[str, StagePlan]) -> StagePlan:
    """Plan one stage whose needs have settled."""
    needed = {
        name: None if settled[name].state == "not run" else settled[name].outputs for name in node.needs
    }
    items = _items(store, node, needed)
    if isinstance(items, NotRun):
        return StagePlan(node.stage, "not run", reason=items.reason)
    if node.stage.anew and node.retrain is not None and node.retrain.warm_start:
        items = [warm_started(store, item) for item in items]
    plan = StagePlan(node.stage, "fresh", items)
    for item in items:
        if node.forced:
            plan.stale[item.label] = ["forced"]
            continue
        parts = item.parts()
        record, stale_reason = fresh_record(store, node.stage.name, item.key(parts))
        if record is None and node.retrain is not None:
            waiting = deferred(store, item, parts, node.retrain)
            if waiting is not None:
                record, plan.behind[item.label] = waiting
        if record is None:
            plan.stale[item.label] = reasons(store, item, parts, stale_reason, node.explain)
        else:
            plan.outputs[item.label] = record.outputs
    if plan.stale:
        plan.state = "stale"
    return plan


def _items(store: Store, node: Node, needed: dict[str, Outputs | None]) -> list[Item] | NotRun:
    """The stage's items. StoreError where records name what no stage before it puts out."""
    try:
        return node.items(needed)
    except (InputError, StoreError):
        raise
    except (ValueError, LookupError) as error:
        named = ", ".join(name for name in node.needs if needed[name])
        raise StoreError(
            f"{node.stage.name}: the records of {named or 'nothing'} name no artefacts that it can read ({error}); "
            f"{store.hint('verify')} looks for damage; --force with these stages makes them again"
        ) from error


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


class Board:
    """What has settled in a run so far. Graphs that run side by side share one and wait for each other's stages."""

    def __init__(self) -> None:
        self.planned: dict[str, StagePlan] = {}
        """Stages that have been started, with the items that were planned."""
        self.settled: dict[str, StagePlan] = {}
        self.failure: BaseException | None = None
        self.changed = threading.Condition()

    def settle(self, plan: StagePlan) -> None:
        with self.changed:
            self.settled[plan.stage.name] = plan
            self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Keep the first failure: it stops new work everywhere and is raised once nothing runs."""
        with self.changed:
            self.failure = self.failure or error
            self.changed.notify_all()

    def notify(self, _=None) -> None:
        with self.changed:
            self.changed.notify_all()


def run_graph(
    store: Store, graph: list[Node], board: Board, submit: Submit, on_settled: Callable[[StagePlan], None]
) -> None:
    """Run what is stale in `graph`, each stage once what it needs has settled on the board.

    Stages whose needs are settled run side by side. The first failure stops new work, waits for what runs,
    and is raised.
    """
    pending = list(graph)
    running: dict[Future, tuple[StagePlan, Item]] = {}

    def ready() -> list[Node]:
        if board.failure is not None:
            return []
        return [node for node in pending if all(need in board.settled for need in node.needs)]

    def settle(plan: StagePlan) -> None:
        on_settled(plan)
        board.settle(plan)

    while True:
        with board.changed:
            board.changed.wait_for(
                lambda: (
                    ready()
                    or any(f.done() for f in running)
                    or not running
                    and (board.failure or not pending)
                )
            )
        for future in [f for f in running if f.done()]:
            plan, item = running.pop(future)
            try:
                plan.outputs[item.label] = tuple(future.result())
            except BaseException as error:  # noqa: BLE001 - kept, and raised once nothing runs
                board.fail(error)
                continue
            if len(plan.outputs) == len(plan.items):
                settle(plan)
        for node in ready():
            pending.remove(node)
            try:
                plan = board.planned[node.stage.name] = plan_stage(store, node, board.settled)
            except BaseException as error:  # noqa: BLE001 - as above: graphs beside this one must not wait for it
                board.fail(error)
                break
            for item in (i for i in plan.items if i.label in plan.stale):
                future = submit(item, plan.stale[item.label])
                running[future] = (plan, item)
                future.add_done_callback(board.notify)
            if not plan.stale:
                settle(plan)
        if not running and (board.failure is not None or not pending):
            break
    if board.failure is not None:
        raise board.failure
