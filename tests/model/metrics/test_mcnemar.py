"""McNemar's exact test against hand calculation and scipy's binomial test."""

import pytest
from scipy.stats import binomtest

from model.metrics.mcnemar import McNemar, mcnemar


def outcomes(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    pairs = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second
    pairs += [(False, False)] * neither
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_by_hand():
    # Of six that differ one falls to the first: 2 (C(6,0) + C(6,1)) / 2^6 = 14/64.
    assert mcnemar(*outcomes(3, 1, 5, 2)) == McNemar(11, 1, 5, 14 / 64)
    # All five to one side: 2 / 2^5. Five are the most that can differ and stay above 0.05.
    assert mcnemar(*outcomes(0, 5, 0, 4)).p == 2 / 32
    assert mcnemar(*outcomes(0, 0, 6, 0)).p == 2 / 64


def test_equally_many_on_both_sides_and_none_at_all():
    assert mcnemar(*outcomes(9, 4, 4, 0)).p == 1.0
    assert mcnemar(*outcomes(2, 0, 0, 2)) == McNemar(4, 0, 0, 1.0) and mcnemar([], []).p == 1.0


@pytest.mark.parametrize("first,second", [(0, 9), (3, 8), (12, 30), (200, 260)])
def test_it_is_the_binomial_test_of_those_that_differ(first, second):
    wanted = binomtest(first, first + second, 0.5).pvalue
    assert mcnemar(*outcomes(7, first, second, 5)).p == pytest.approx(wanted, abs=1e-6)


def test_other_items_are_not_compared():
    with pytest.raises(ValueError, match="2 and 1 items"):
        mcnemar([True, False], [True])
