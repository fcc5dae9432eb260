"""Edges of choosing pairs, by hand: what is exactly at a bound, equal, or of equal length."""

import pytest

from model.pairs.selection import (
    Choice,
    balanced,
    choose,
    choose_length_matched,
    equal_error_cosine,
    share_below,
    threshold_in_force,
)


def test_the_nearest_in_length_of_those_below_is_chosen():
    cosines, lengths = [-0.5, 0.05, 0.0, 0.3], [12, 9, 4, 7]
    assert choose_length_matched(cosines, [True] * 4, lengths, 7, 0.1) == Choice(1, 0.05, "")
    assert choose_length_matched(cosines, [True] * 4, lengths, 5, 0.1) == Choice(2, 0.0, "")
    assert choose_length_matched(cosines, [True, False, True, True], lengths, 7, 0.1) == Choice(2, 0.0, "")


def test_equal_gaps_go_to_the_less_similar_then_to_the_first():
    assert choose_length_matched([0.05, -0.1], [True] * 2, [6, 8], 7, 0.1).index == 1  # one short, one long
    assert choose_length_matched([-0.1, -0.1], [True] * 2, [8, 6], 7, 0.1).index == 0


def test_at_the_threshold_is_not_below():
    assert choose_length_matched([0.1, 0.0], [True] * 2, [7, 99], 7, 0.1) == Choice(1, 0.0, "")
    assert choose_length_matched([0.1], [True], [7], 7, 0.1) == Choice(None, 0.1, "not_below_threshold")
    assert choose_length_matched([-0.5], [False], [7], 7, 0.1) == Choice(None, None, "no_usable_candidate")
    assert share_below([0.1, 0.0999], 0.1) == 0.5


def test_share_below_is_of_all_exchanges():
    assert share_below([-0.2, 0.05, 0.3, None], 0.1) == 0.5
    assert share_below([None], 0.1) == share_below([], 0.1) == 0.0
    assert share_below([-0.2], 0.1) == 1.0


@pytest.mark.parametrize("least_share, fallen_back", [(0.5, False), (0.500001, True), (0.0, False)])
def test_exactly_the_least_share_is_enough(least_share, fallen_back):
    found = threshold_in_force([0.05, 0.3], 0.1, "equal_error", least_share, 0.35)
    assert found == (0.35 if fallen_back else 0.1)


def test_one_exchange_may_fall_back():
    assert threshold_in_force([0.3], 0.1, "equal_error", 0.2, 0.35) == 0.35
    assert threshold_in_force([0.3], 0.1, "equal_error", 0.2, 0.0) == 0.1


def test_of_equal_cosines_the_first_usable_is_the_least():
    assert choose([0.0, 0.0, 0.0], [False, True, True], 0.1) == Choice(1, 0.0, "")


@pytest.mark.parametrize(
    "gaps, stays",
    [
        ([], []),
        ([0, 0], [1, 1]),
        ([3], [0]),
        ([-3], [0]),
        ([5, -1, 2, 0], [0, 1, 1, 1]),  # two longer, one shorter: the longest leaves
        ([-5, 1, -2, 0], [0, 1, 1, 1]),
        ([2, 2, -9], [1, 0, 1]),  # of equal ones the later
        ([-2, -2, 9], [1, 0, 1]),
        ([1, -1, 1, -1], [1, 1, 1, 1]),
    ],
)
def test_as_many_are_longer_as_shorter(gaps, stays):
    assert balanced(gaps) == [bool(s) for s in stays]


@pytest.mark.parametrize(
    "same, different, cosine",
    [
        ([0.8, 0.9], [0.1, 0.2], 0.5),  # apart: nobody is confused between 0.2 and 0.8
        ([0.5], [0.5], 0.5),
        ([0.1, 0.2], [0.8, 0.9], 0.5),  # the wrong way round: all are confused there
        ([0.2, 0.6, 0.7, 0.9], [0.1, 0.3, 0.4, 0.8], 0.5),  # one of four each, between 0.4 and 0.6
        ([0.6, 0.2], [0.4], 0.5),  # unsorted; above 0.4 nothing different is left
    ],
)
def test_equal_error_by_hand(same, different, cosine):
    assert equal_error_cosine(same, different) == pytest.approx(cosine)
