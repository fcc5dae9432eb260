"""Agreement against published worked examples, and against scikit-learn."""

import math

import numpy as np
import pytest

from model.metrics.agreement import alpha_interval, kappa_interval, ordinal_alpha, weighted_kappa
from model.metrics.settings import BootstrapSettings

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


LEVELS = ["second", "tie", "first"]


def rated(draws, dialogues: int, agreeing: float) -> tuple[list, list, list]:
    """Two raters' values and dialogues: of a dialogue's three rows all are agreed on, or what chance gives."""
    names = np.repeat(np.arange(dialogues), 3)
    first = draws.integers(0, 3, len(names))
    second = np.where((draws.random(dialogues) < agreeing)[names], first, draws.integers(0, 3, len(names)))
    return first.tolist(), second.tolist(), names.tolist()


def test_intervals_hold_kappa_and_alpha_as_often_as_they_say():
    """Two raters who agree by design in a half of the dialogues: either figure is a half of so many that none is by chance."""
    draws, runs = np.random.default_rng(5), 200
    held, alone = {"kappa": 0, "alpha": 0}, 0
    for seed in range(runs):
        first, second, names = rated(draws, 30, 0.5)
        settings = BootstrapSettings(resamples=150, seed=seed)
        kappa = kappa_interval(first, second, [0, 1, 2], names, settings)
        alpha = alpha_interval(list(zip(first, second, strict=True)), names, settings)
        rows = kappa_interval(first, second, [0, 1, 2], range(len(names)), settings)
        held["kappa"] += kappa.low <= 0.5 <= kappa.high
        held["alpha"] += alpha.low <= 0.5 <= alpha.high
        alone += rows.low <= 0.5 <= rows.high
    assert all(0.91 <= times / runs <= 0.98 for times in held.values()), held
    assert alone / runs < 0.88  # rows drawn one by one


def test_an_intervals_figure_is_the_one_without_it_and_where_nothing_varies_there_is_none():
    first, second, names = rated(np.random.default_rng(1), 12, 0.6)
    units = list(zip(first, second, strict=True))
    kappa, alpha = kappa_interval(first, second, [0, 1, 2], names), alpha_interval(units, names)
    assert kappa.mean == weighted_kappa(first, second, [0, 1, 2]) and -1 <= kappa.low < kappa.high <= 1
    assert alpha.mean == ordinal_alpha(units) and -1 <= alpha.low < alpha.high <= 1
    assert alpha == alpha_interval(units, names)
    for found in (
        kappa_interval(first, first, [0, 1, 2], names),
        alpha_interval([[1, 1], [3, 3]], ["a", "b"]),
        alpha_interval(units[:3], names[:3]),  # one conversation
    ):
        assert not math.isnan(found.mean) and math.isnan(found.low) and math.isnan(found.high)
    for found in (
        kappa_interval([], [], LEVELS, []),
        alpha_interval([[1], [2, 2]], "ab"),
        alpha_interval([], []),
    ):
        assert all(map(math.isnan, found))
    # Resamples without two levels have no alpha, and are left out: of (1 1), (1 1), (1 3), (3 3) some draws have one level.
    assert not math.isnan(alpha_interval([[1, 1], [1, 1], [1, 3], [3, 3]], "abcd").low)
