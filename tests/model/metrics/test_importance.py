"""Importance-weighted scores and concordance by hand, and against samples drawn from the trained model itself."""

import math

import numpy as np
import pytest

from model.metrics.importance import concordance, effective_share, weighted_gain


def test_a_weighted_gain_by_hand():
    # Weights 1/4 and 3/4 of the scores 0 and 1, which as drawn have a mean of 1/2.
    assert weighted_gain([-2.0, -5.0], [-2.0, -5.0 + math.log(3)], [0.0, 1.0]) == pytest.approx(0.25)
    assert weighted_gain([-1, -2, -3], [-1001, -1002, -1003], [0.3, 0.1, 0.2]) == pytest.approx(0.0)
    assert weighted_gain([0, 0], [0, 2000.0], [0.2, 0.6]) == pytest.approx(
        0.2
    )  # all weight on one, no overflow
    assert math.isnan(weighted_gain([], [], []))
    with pytest.raises(ValueError, match="2 likelihoods before, 1 after and 2 scores"):
        weighted_gain([0, 0], [0], [1, 2])


def test_the_effective_share_by_hand():
    assert effective_share([-1, -2], [-3, -4]) == pytest.approx(1.0)
    assert effective_share([0, 0], [0, math.log(3)]) == pytest.approx(
        16 / 10 / 2
    )  # (1 + 3)^2 / (1 + 9), of two
    assert effective_share([0, 0], [0, 1000]) == pytest.approx(0.5)


def test_concordance_by_hand():
    """Of the scores 0, 0.1 and 0.5 two pairs are more than 0.2 apart: third over first, third over second."""
    scores = [0.0, 0.1, 0.5]
    assert concordance([0, 0, 0], [0.1, 0.3, 0.2], scores) == 0.5
    assert concordance([0, 0, 0], [0.1, 0.1, 0.2], scores) == 1.0
    assert concordance([0, 0, 0], [0.2, 0.1, 0.2], scores) == 0.75  # a tie, and one that rose
    assert concordance([0, 0, 0], [0.1, 0.3, 0.2], scores, gap=0.05) == pytest.approx(2 / 3)
    assert math.isnan(concordance([0, 0], [1, 2], [0.1, 0.2]))


def test_weights_foresee_what_the_trained_model_would_score():
    """Six things to say, drawn from one distribution: what they score is foretold for another one."""
    draw = np.random.default_rng(0)
    before, after = (0.5 * draw.dirichlet(np.ones(6)) + 1 / 12 for _ in range(2))  # none of them rare
    worth = draw.uniform(-1, 1, 6)
    said = draw.choice(6, 200_000, p=before)
    gain = weighted_gain(np.log(before[said]), np.log(after[said]), worth[said])
    assert gain == pytest.approx(after @ worth - before @ worth, abs=0.01)
