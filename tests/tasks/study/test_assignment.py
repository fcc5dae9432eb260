"""Balance: of conversations over participants, of systems over the places of a page."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.study.assignment import assigned, orders


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 25), st.integers(0, 99), st.data())
def test_every_conversation_is_judged_equally_often(items, places, seed, data):
    each = data.draw(st.integers(1, items))
    names = [f"i{i}" for i in range(items)]
    found = assigned(names, places, each, seed)
    assert len(found) == places and all(len(set(shown)) == each == len(shown) for shown in found)
    used = Counter(name for shown in found for name in shown)
    counts = [used[name] for name in names]
    assert max(counts) - min(counts) <= 1 and sum(counts) == places * each
    assert found == assigned(names, places, each, seed)


def test_systems_stand_equally_often_in_every_place():
    systems = list("abcdef")
    found = orders(systems, 12, place=3, seed=1)
    assert all(sorted(order) == systems for order in found)
    for position in range(6):
        assert Counter(order[position] for order in found) == dict.fromkeys(systems, 2)
    # Nobody can tell a system by who stands before it, or by where it stood for another participant.
    before = Counter(pair for order in found for pair in zip(order, order[1:], strict=False))
    assert max(before.values()) < 12 and found != orders(systems, 12, place=4, seed=1)
    assert found != orders(systems, 12, place=3, seed=2)


def test_conversations_come_in_another_order_for_each():
    shown = assigned([f"i{i}" for i in range(10)], 10, 10, 0)
    assert len({tuple(items) for items in shown}) == 10
