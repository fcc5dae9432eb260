"""Who gets a free place: the longest chain first, within the limits."""

import threading
import time

from tasks.engine.declaration import Stage
from tasks.engine.planner import Node
from tasks.engine.slots import Slots, urgency
from tests.support.waiting import wait_for


def node(name: str, *needs: str) -> Node:
    return Node(Stage(name, "tasks.stages.shards:place"), needs, lambda _: [])


def test_urgency_is_the_longest_chain_to_the_end():
    graph = [
        node("read"),
        node("long", "read"),
        node("short", "read"),
        node("middle", "long"),
        node("end", "middle", "short"),
    ]
    assert urgency(graph) == {"read": 4, "long": 3, "middle": 2, "short": 2, "end": 1}


def order_of(slots: Slots, stages: list[str], held: str) -> list[str]:
    """The order in which waiting stages get the one place that `held` gives back."""
    order, threads = [], []

    def work(stage: str) -> None:
        with slots.take(stage):
            order.append(stage)

    with slots.take(held):
        for stage in stages:
            threads.append(threading.Thread(target=work, args=(stage,)))
            threads[-1].start()
            while len(slots._waiting) < len(threads):
                time.sleep(0.001)
    for thread in threads:
        thread.join(20)
    return order


def test_a_free_place_goes_to_the_most_urgent_then_to_who_came_first():
    slots = Slots(1, {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 3, "c": 2})
    assert order_of(slots, ["a", "c", "b", "c"], held="a") == ["b", "c", "c", "a"]


def test_a_stage_at_its_limit_lets_others_pass():
    slots = Slots(2, {"a": 1, "b": 1}, {"a": 9, "b": 1})
    passed = threading.Event()

    def other() -> None:
        with slots.take("b"):
            passed.set()

    def second() -> None:
        with slots.take("a"):
            order.append("a")

    order: list[str] = []
    waiting, thread = threading.Thread(target=second), threading.Thread(target=other)
    with slots.take("a"):
        waiting.start()
        wait_for(lambda: slots._waiting)  # it is there first, and more urgent
        thread.start()
        assert passed.wait(60)
        assert order == []
    waiting.join(60)
    thread.join(60)
    assert order == ["a"]
