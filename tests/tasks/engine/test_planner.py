"""The walk over the graph: order, side by side, failure, graphs that share a board. Items do nothing here."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from storage.store import Record, Store, StoreError
from tasks.engine.declaration import NotRun, Stage
from tasks.engine.item import Item
from tasks.engine.planner import Board, Node, StagePlan, plan_all, plan_stage, run_graph
from tests.support.waiting import wait_for

FUNCTION = "tasks.stages.shards:place"


def node(name: str, *needs: str, labels=("all",), not_run: str = "") -> Node:
    stage = Stage(name, FUNCTION)

    def items(needed):
        if not_run:
            return NotRun(not_run)
        refs = [ref for outputs in needed.values() if outputs for refs in outputs.values() for ref in refs]
        return [Item(stage, label, {"refs": refs, "label": label}) for label in labels]

    return Node(stage, needs, items)


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def finish(store: Store, item: Item) -> list:
    """Commit an artefact that depends on nothing but the item's name."""
    ref = store.put_bytes(f"{item.stage.name}/{item.label}", f"{item.stage.name}/{item.label}".encode())
    parts = item.parts()
    store.commit(Record(stage=item.stage.name, label=item.label, key=item.key(parts), outputs=(ref,)), parts)
    return [ref]


def walk(store: Store, graph: list[Node], board: Board | None = None) -> list[str]:
    order = []

    def submit(item, why):
        order.append(f"{item.stage.name}/{item.label}")
        answer = Future()
        answer.set_result(finish(store, item))
        return answer

    run_graph(store, graph, board or Board(), submit, lambda plan: None)
    return order


def test_each_stage_runs_after_what_it_needs_and_once(store):
    graph = [node("a", labels=("1", "2")), node("b", "a"), node("c", "a"), node("d", "b", "c")]
    assert walk(store, graph) == ["a/1", "a/2", "b/all", "c/all", "d/all"]
    assert walk(store, graph) == []


def test_what_is_not_run_counts_as_settled(store):
    graph = [node("a"), node("b", "a", not_run="no media"), node("c", "a", "b")]
    assert walk(store, graph) == ["a/all", "c/all"]
    plans = {p.stage.name: p for p in plan_all(store, graph)}
    assert (plans["b"].state, plans["b"].reason) == ("not run", "no media")


def test_stages_that_wait_for_nothing_run_side_by_side(store):
    both = threading.Barrier(2, timeout=20)
    with ThreadPoolExecutor(2) as pool:

        def work(item):
            both.wait()  # passes only while the other one runs
            return finish(store, item)

        run_graph(
            store, [node("a"), node("b")], Board(), lambda item, why: pool.submit(work, item), lambda p: None
        )


def test_the_first_failure_stops_new_work_and_is_raised(store):
    ran = []

    def submit(item, why):
        ran.append(item.stage.name)
        answer = Future()
        if item.stage.name == "b":
            answer.set_exception(RuntimeError("b broke"))
        else:
            answer.set_result(finish(store, item))
        return answer

    with pytest.raises(RuntimeError, match="b broke"):
        run_graph(store, [node("a"), node("b", "a"), node("c", "b")], Board(), submit, lambda p: None)
    assert ran == ["a", "b"]
    # What had finished stays finished.
    assert [p.state for p in plan_all(store, [node("a")])] == ["fresh"]


def test_graphs_on_one_board_wait_for_each_others_stages(store):
    board = Board()
    first, second = [node("a"), node("c", "b")], [node("b", "a"), node("d", "c")]
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(walk, store, graph, board) for graph in (first, second)]
        assert [future.result(timeout=30) for future in done] == [["a/all", "c/all"], ["b/all", "d/all"]]


def test_a_failure_in_one_graph_ends_the_other(store):
    board = Board()

    def broken(item, why):
        answer = Future()
        answer.set_exception(RuntimeError("broke"))
        return answer

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(run_graph, store, [node("a")], board, broken, lambda p: None)
        other = pool.submit(walk, store, [node("b", "a")], board)
        for future in (one, other):
            with pytest.raises(RuntimeError, match="broke"):
                future.result(timeout=30)


def test_behind_a_stale_stage_all_is_unknown(store):
    graph = [node("a"), node("b", "a"), node("c", "b")]
    walk(store, graph[:1])
    assert [(p.state, p.reason) for p in plan_all(store, graph)] == [
        ("fresh", ""),
        ("stale", ""),
        ("unknown", "unknown until b has run"),
    ]


def test_a_settled_stage_wakes_a_graph_that_waits(store):
    board = Board()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(walk, store, [node("b", "a")], board)
        wait_for(lambda: board.changed._waiters)
        board.settle(StagePlan(Stage("a", FUNCTION), "fresh"))
        assert other.result(timeout=60) == ["b/all"]


def test_a_failure_wakes_a_graph_that_waits(store):
    """The other graph is asleep by then: it waits for a stage that will never settle."""
    board = Board()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(walk, store, [node("b", "a")], board)
        wait_for(lambda: board.changed._waiters)
        board.fail(RuntimeError("broke"))
        with pytest.raises(RuntimeError, match="broke"):
            other.result(timeout=60)


def test_a_stage_that_cannot_be_planned_ends_the_run_and_the_graphs_beside_it(store):
    def items(needed):
        raise RuntimeError("no plan")

    board = Board()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(walk, store, [node("c", "b")], board)
        with pytest.raises(RuntimeError, match="no plan"):
            walk(store, [node("a"), Node(Stage("b", FUNCTION), ("a",), items)], board)
        with pytest.raises(RuntimeError, match="no plan"):
            other.result(timeout=60)
    assert list(board.settled) == ["a"]


def test_records_that_name_no_artefact_that_is_wanted_are_named_by_stage(store):
    """Of what a stage needs, those that put anything out; what was not run is no fault of records."""

    def items(needed):
        raise LookupError("no shard")

    walk(store, [node("a"), node("b"), node("c", not_run="no media")])
    settled = {
        plan.stage.name: plan
        for plan in plan_all(store, [node("a"), node("b"), node("c", not_run="no media")])
    }
    with pytest.raises(StoreError, match=r"^d: the records of a, b name no artefacts .*no shard"):
        plan_stage(store, Node(Stage("d", FUNCTION), ("a", "b", "c"), items), settled)
    with pytest.raises(StoreError, match=r"^d: the records of nothing name no artefacts"):
        plan_stage(store, Node(Stage("d", FUNCTION), ("c",), items), settled)
