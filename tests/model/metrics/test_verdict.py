"""Grades by hand, the smallest detectable difference by simulation, and who stands in for whom as a control."""

from dataclasses import dataclass

import numpy as np
import pytest

from model.metrics.bootstrap import bootstrap
from model.metrics.compared import MOST_ROWS, compared_rows
from model.metrics.donors import donors, with_others
from model.metrics.settings import BootstrapSettings
from model.metrics.verdict import (
    FEW,
    LEARNED,
    LEAST_DIALOGUES,
    NO_DIFFERENCE,
    NOT_FINITE,
    NOT_TRAINED,
    WORSE,
    Verdict,
    verdict,
)


def test_grades():
    gains = np.linspace(0.1, 0.3, 12)
    for sign, grade in ((1, LEARNED), (-1, WORSE)):
        found = verdict(sign * gains, range(12))
        assert found.grade == grade and found.mean == pytest.approx(sign * 0.2)
        assert (found.rows, found.dialogues) == (12, 12) and found.low < found.mean < found.high
    none = verdict(gains - 0.2, range(12))
    assert none.grade == NO_DIFFERENCE and none.low < 0 < none.high
    # sd of 0.1 … 0.3 in twelve steps is 0.0656 (n - 1); t of 11 degrees: 2.201 and 0.876.
    assert none.detectable == pytest.approx((2.201 + 0.876) * 0.0656 / 12**0.5, rel=0.08)


def test_with_four_dialogues_t_has_three_degrees_and_figures_have_six_digits():
    gains = np.array([0.1, 0.2, 0.4, 1 / 3])
    found = verdict(gains, range(4))
    # t of three degrees in any table: 3.182 two-sided 5 %, 0.978 one-sided 20 %.
    assert found.detectable == pytest.approx((3.182 + 0.978) * bootstrap(gains, range(4)).error, rel=1e-3)
    assert found.mean == 0.258333
    told = found.as_dict()
    assert (told["grade"], told["rows"], told["dialogues"]) == (found.grade, 4, 4)
    assert all(told[name] == round(told[name], 6) != round(told[name], 5) for name in ("low", "detectable"))
    nothing = Verdict(NOT_TRAINED)
    assert (nothing.rows, nothing.dialogues, nothing.mean, nothing.detectable) == (0, 0, None, None)


def test_too_few_dialogues_decide_nothing_however_many_rows_and_however_clear():
    for count in (1, 2, LEAST_DIALOGUES - 1):
        found = verdict([1.0, 1.1] * count, [i // 2 for i in range(2 * count)])
        assert (found.grade, found.rows, found.dialogues) == (FEW, 2 * count, count)
        assert found.mean == pytest.approx(1.05) and found.detectable is None
    assert verdict([1.0, 1.1, 1.2, 1.0], range(4)).grade == LEARNED
    # Four of one sign that differ much: t of three degrees is 3.18, so the mean of 1.0 with an error of 0.5 is not enough.
    assert verdict([0.2, 0.4, 1.0, 2.4], range(4)).grade == NO_DIFFERENCE
    assert verdict([1.0], ["d"]).low is None
    nothing = verdict([], [])
    assert (nothing.grade, nothing.mean, nothing.rows) == (FEW, None, 0)


def test_a_figure_that_is_no_number_is_told_and_nothing_made_of_the_others():
    for bad in (float("nan"), float("inf")):
        found = verdict([0.1] * 9 + [bad], range(10))
        assert (found.grade, found.mean, found.rows) == (NOT_FINITE, None, 10)


def test_nothing_but_zeros_is_no_difference():
    found = verdict([0.0] * 8, range(8))
    assert (found.grade, found.low, found.high, found.detectable) == (NO_DIFFERENCE, 0.0, 0.0, 0.0)


def test_rows_of_one_dialogue_count_as_one():
    """Thirty rows above zero of two dialogues, and fifteen dialogues of a row below: no difference by dialogues."""
    gains = np.concatenate([np.full(30, 0.3), np.full(15, -0.1) + np.linspace(-0.05, 0.05, 15)])
    of = [i // 15 for i in range(30)] + list(range(2, 17))
    assert verdict(gains, range(45)).grade == LEARNED
    assert verdict(gains, of).grade == NO_DIFFERENCE


def test_the_detectable_difference_is_seen_four_times_in_five():
    rng, seen, runs = np.random.default_rng(1), 0, 400
    settings = BootstrapSettings(resamples=300)
    true = np.mean([verdict(rng.normal(0, 1, 30), range(30), settings).detectable for _ in range(40)])
    for _ in range(runs):
        seen += verdict(rng.normal(true, 1, 30), range(30), settings).grade == LEARNED
    assert seen / runs == pytest.approx(0.8, abs=0.07)


def test_donors_are_of_another_dialogue_and_as_like_in_size_as_can_be():
    assert donors(["a", "a", "b", "c"], [1, 5, 4, 9]) == [2, 2, 1, 1]
    assert donors(["a", "a"], [1, 2]) == [None, None] and donors([], []) == []
    # Of one size everyone looks up and the last down: not one row for all.
    assert donors("abcd", [3, 3, 3, 3]) == [1, 2, 3, 2]


@dataclass(frozen=True)
class Example:
    group: str
    history: str
    reply: str


def test_only_rows_of_one_kind_exchange_and_only_the_field_that_is_asked():
    rows = [
        Example("a", "h0", "r0"),
        Example("b", "", "r1"),
        Example("c", "h2", "r2"),
        Example("c", "h3", "r3"),
    ]
    found = with_others(rows, ("history",), ["h", None, "h", "h"], [1, 0, 1, 2])
    assert found == [Example("a", "h2", "r0"), None, Example("c", "h0", "r2"), Example("c", "h0", "r3")]


def test_compared_rows_are_bounded_and_evenly_spaced():
    kept = compared_rows(["x", "y", "x"], before=[1.23456789, 2, 3], other=[None, 0.5, float("inf")])
    assert kept == {"dialogue": [0, 1, 0], "before": [1.234568, 2.0, 3.0], "other": [None, 0.5, float("inf")]}
    many = compared_rows(range(MOST_ROWS + 1), before=range(MOST_ROWS + 1))
    assert many["before"][:3] == [0.0, 2.0, 4.0] and len(many["before"]) == MOST_ROWS // 2 + 1
    with pytest.raises(ValueError, match="before has 1 figures for 2 rows"):
        compared_rows(["a", "b"], before=[1])
