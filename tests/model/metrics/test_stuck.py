"""Stuck replies by hand: empty ones, and those that go round in circles."""

import pytest

from model.metrics.stuck import is_looped, is_stuck, stuck_share


@pytest.mark.parametrize(
    "reply, looped",
    [
        ("I know I know I know", True),  # two words three times on end
        ("I know. I know, but I know what you mean.", False),
        ("No no no no no no!", True),  # "no no" three times on end
        ("No no no no no!", False),
        ("I don't know. I don't know. I don't know.", True),  # three words three times on end
        ("I don't know. I really don't know.", False),
        ("So sorry for your loss. So sorry for your loss. So sorry for your loss.", True),
        ("So sorry for your loss. So sorry for your loss.", False),
        ("I went to the shop and the shop was shut, so I went to the market and the market was shut.", False),
        ("Ha ha ha! That's so funny.", False),
        ("", False),
    ],
)
def test_a_loop_by_hand(reply, looped):
    assert is_looped(reply) is looped


def test_what_says_nothing_is_stuck_too():
    assert is_stuck("") and is_stuck(" … !") and is_stuck("I know I know I know") and not is_stuck("Yeah.")
    assert stuck_share(["", "Yeah.", "No no no no no no", "Hi."]) == 0.5 and stuck_share([]) == 0.0
