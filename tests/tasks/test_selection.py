"""Choosing pairs, by hand: least cosine, ties, threshold, the equal-error cosine, which exchanges are selected."""

from model.pairs.selection import choose, equal_error_cosine, threshold_in_force
from storage.exchanges import Exchange
from tasks.stages.selection import smallest_hashed, spread


def test_the_least_similar_usable_candidate_is_chosen():
    assert choose([0.5, -0.2, 0.05], [True, False, True], 0.1).index == 2
    assert choose([0.5, -0.2, 0.05], [True, True, True], 0.1).index == 1


def test_ties_go_to_the_first_in_emotion_order():
    assert choose([0.3, 0.0, 0.0], [True] * 3, 0.1).index == 1


def test_the_threshold_is_strict():
    at = choose([0.1], [True], 0.1)
    assert (at.index, at.cosine, at.reason) == (None, 0.1, "not_below_threshold")
    assert choose([0.0999], [True], 0.1).index == 0


def test_without_a_usable_candidate_there_is_no_pair():
    assert choose([0.0, 0.0], [False, False], 0.1).reason == "no_usable_candidate"


def test_equal_error_by_hand():
    """same 0.4 0.6 0.8 1.0, different 0.0 0.2 0.5 0.7.

    Below 0.6: one of four same (1/4) are missed, and one of four different (0.7) is at or above it: equal at 0.6.
    """
    assert equal_error_cosine([0.4, 0.6, 0.8, 1.0], [0.0, 0.2, 0.5, 0.7]) == (0.6 + 0.5) / 2


def test_separated_cosines_have_a_threshold_between_them():
    found = equal_error_cosine([0.8, 0.9], [0.1, 0.2])
    assert 0.2 <= found <= 0.8


def test_the_fallback_acts_only_where_too_little_is_kept():
    least = [0.05, 0.3, 0.4, None]
    assert threshold_in_force(least, 0.1, "equal_error", 0.2, 0.35) == 0.1  # one of four kept: enough
    assert threshold_in_force(least, 0.1, "equal_error", 0.3, 0.35) == 0.35
    assert threshold_in_force(least, 0.1, "none", 0.3, 0.35) == 0.1
    assert threshold_in_force(least, 0.1, "equal_error", 0.3, 0.02) == 0.1  # the other would keep fewer still
    assert (
        threshold_in_force([], 0.1, "equal_error", 0.3, 0.35) == 0.1
    )  # nothing of train tells that it is too few
    assert threshold_in_force(least, 0.1, "equal_error", 0.3, None) == 0.1


def exchange(dataset: str, dialogue: str, turn: int) -> Exchange:
    return Exchange(dataset, "train", dialogue, turn, "a", "b", None, None, "x", "y")


def test_one_more_dialogue_moves_at_most_its_own_exchanges():
    rows = [exchange("meld", str(d), t) for d in range(40) for t in range(5)]
    before = {e.key for e in smallest_hashed(rows, 50, 0, "a draw")}
    after = {
        e.key
        for e in smallest_hashed([*rows, *(exchange("meld", "new", t) for t in range(5))], 50, 0, "a draw")
    }
    assert len(before) == len(after) == 50
    assert len(before - after) <= 5
    assert before != {e.key for e in smallest_hashed(rows, 50, 1, "a draw")}


def test_the_count_is_shared_out_and_what_one_cannot_fill_goes_to_the_others():
    rows = [exchange("iemocap", "0", t) for t in range(3)] + [exchange("meld", "0", t) for t in range(50)]
    chosen = spread(rows, 20, 0, "a draw")
    assert len(chosen) == 20
    assert sum(e.dataset == "iemocap" for e in chosen) == 3
