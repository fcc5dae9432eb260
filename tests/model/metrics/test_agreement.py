"""Agreement against published worked examples, and against scikit-learn."""

import numpy as np
import pytest

from model.metrics.agreement import ordinal_alpha, weighted_kappa

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example C: four observers, twelve units.
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)


def test_alpha_of_the_published_example():
    units = [[value for value in unit if value is not None] for unit in zip(*OBSERVERS, strict=True)]
    assert ordinal_alpha(units) == pytest.approx(0.815, abs=5e-4)


def test_alpha_by_hand():
    """Two raters, units (1 1) (1 3) (3 3): n1 = n3 = 3, any difference is one and the same, so alpha is nominal:
    1 - (n - 1) o13 / (n1 n3) = 1 - 5 * 1 / 9."""
    assert ordinal_alpha([[1, 1], [1, 3], [3, 3]]) == pytest.approx(1 - 5 / 9)
    assert ordinal_alpha([[1, 1], [3, 3], [2, 2, 2]]) == 1
    assert ordinal_alpha([[2, 2], [2, 2]]) is None and ordinal_alpha([[1], [2]]) is None


def test_alpha_of_chance_is_about_zero():
    drawn = np.random.default_rng(0).integers(1, 4, (400, 5))
    assert abs(ordinal_alpha(drawn.tolist())) < 0.05


def test_kappa_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    draws = np.random.default_rng(1)
    levels = ["second", "tie", "first"]
    first = draws.integers(0, 3, 200)
    second = np.where(draws.random(200) < 0.5, first, draws.integers(0, 3, 200))
    found = weighted_kappa([levels[a] for a in first], [levels[b] for b in second], levels)
    assert found == pytest.approx(metrics.cohen_kappa_score(first, second, weights="quadratic"))
    assert weighted_kappa(["tie"], ["tie"], levels) is None and weighted_kappa([], [], levels) is None
    with pytest.raises(ValueError, match="pair them up"):
        weighted_kappa(["tie"], [], levels)
