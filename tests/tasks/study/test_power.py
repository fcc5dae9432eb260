"""How many judgements are needed, against a calculation by hand and against simulated studies."""

import math

import numpy as np
import pytest

from tasks.study.power import Power


def test_by_hand():
    """(1.959964 + 0.841621)² = 7.848879; a judgement of three equally frequent points has variance 2/3, so the
    difference of two 4/3: 7.848879 * 4/3 / 0.01 = 1046.5."""
    assert Power().judgements() == 1047
    assert Power(sd=0.5, correlation=0.5).judgements() == math.ceil(7.848879 * 0.25 / 0.01)
    assert Power().detectable(100) == pytest.approx(math.sqrt(7.848879 * 4 / 3 / 100), rel=1e-6)
    assert (
        Power()
        .said(10, 10)
        .startswith(
            "10 participants × 10 conversations give 100 judgements of each system and question; a difference of 0.1 needs "
            "1,047 (105 participants), and 100 show one of 0.32 "
        )
    )


def test_simulated_studies_see_it_as_often_as_promised():
    """Judgements of 1, 2, 3, the second system's shifted from bad to good so that its mean is 0.1 above."""
    draws, n = np.random.default_rng(0), Power().judgements()
    seen = 0
    for _ in range(2000):
        first = draws.choice([1, 2, 3], n)
        second = draws.choice([1, 2, 3], n, p=[1 / 3 - 0.05, 1 / 3, 1 / 3 + 0.05])
        difference = second - first
        error = difference.std(ddof=1) / math.sqrt(n)
        seen += abs(difference.mean()) > 1.959964 * error
    assert seen / 2000 == pytest.approx(0.8, abs=0.03)
