"""Intervals against closed forms, by simulation, and at their edges."""

import math

import numpy as np
import pytest

from model.metrics import bootstrap as bootstrap_module
from model.metrics.bootstrap import bootstrap, bootstrap_mean, bootstrap_of, bootstrap_share
from model.metrics.settings import BootstrapSettings
from model.metrics.student import t_quantile


def test_it_is_seeded_and_near_the_normal_interval():
    values, alone = np.random.default_rng(3).normal(2.0, 1.0, 400), range(400)
    first = bootstrap_mean(values, alone)
    assert first == bootstrap_mean(values, alone)
    assert bootstrap_mean(values, alone, BootstrapSettings(seed=1)) != first
    error = values.std() / 20
    assert first.mean == pytest.approx(values.mean())
    assert first.low == pytest.approx(values.mean() - 1.96 * error, abs=0.25 * error)
    assert first.high == pytest.approx(values.mean() + 1.96 * error, abs=0.25 * error)
    assert bootstrap(values, alone).error == pytest.approx(error, rel=0.1)


def test_of_nothing_of_a_constant_and_of_one_cluster():
    assert all(map(math.isnan, bootstrap_mean([], []))) and bootstrap([], []).clusters == 0
    assert bootstrap_mean([0.25] * 5, range(5)) == (0.25, 0.25, 0.25)
    one = bootstrap([0.1, 0.2, 0.6], ["d", "d", "d"])
    assert one.interval.mean == pytest.approx(0.3) and one.clusters == 1
    assert math.isnan(one.interval.low) and math.isnan(one.interval.high) and math.isnan(one.error)
    with pytest.raises(ValueError, match="3 values but 2 clusters"):
        bootstrap([1, 2, 3], ["a", "b"])


def test_alike_values_have_no_error_to_the_last_digit_however_long_their_clusters_are():
    assert bootstrap([0.1] * 60, np.repeat(np.arange(8), range(4, 12))).error == 0.0


def test_as_many_are_drawn_as_are_asked_for_and_no_more_at_a_time_than_fit(monkeypatch):
    drawn, real = [], np.random.default_rng

    class Noting:
        def __init__(self, seed):
            self.of = real(seed)

        def integers(self, low, high, size):
            drawn.append((low, high, size))
            return self.of.integers(low, high, size)

    monkeypatch.setattr(np.random, "default_rng", Noting)
    monkeypatch.setattr(bootstrap_module, "CHUNK", 14)
    bootstrap([1.0, 2.0, 3.0, 5.0], range(4), BootstrapSettings(resamples=10))
    assert drawn == [(0, 4, (3, 4))] * 3 + [(0, 4, (1, 4))]
    drawn.clear()
    bootstrap(np.arange(20.0), range(20), BootstrapSettings(resamples=2))
    assert drawn == [(0, 20, (1, 20))] * 2


def test_of_two_clusters_by_hand():
    """Draws of two from {a: 0 and 0, b: 3}: both a, 0; both b, 3; one of each, 3 / 3 = 1."""
    found = bootstrap([0, 3, 0], ["a", "b", "a"], BootstrapSettings(resamples=4000))
    # 0, 1, 1 and 3 with equal chances: variance 11 / 4 - 1.25 ** 2, times 2 for two clusters.
    assert found.error == pytest.approx(math.sqrt(2 * (2.75 - 1.25**2)), rel=0.05)
    # The resamples' own mean is 1.25, for b is short; the interval is around the values' mean.
    assert found.interval.mean == 1.0
    assert found.interval.high - 1.0 == pytest.approx(12.706 * found.error, rel=1e-3)
    assert found.interval.low + found.interval.high == pytest.approx(2.0)


def test_every_cluster_is_drawn_as_often_as_the_others():
    """Neither the first nor the last is left out, or drawn more often."""
    for outlier in (0, 19):
        values = np.zeros(20)
        values[outlier] = 20.0
        found = bootstrap(values, range(20), BootstrapSettings(resamples=4000))
        # The outlier is drawn binomially, once a resample: variance 20 * (1/20) * (19/20).
        assert found.error == pytest.approx(math.sqrt(0.95 * 20 / 19), rel=0.05)


def test_the_order_of_rows_and_the_names_of_clusters_do_not_matter_to_size():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 4)
    values = rng.normal(0, 1, 30)[clusters]
    whole = bootstrap(values, clusters)
    # Four equal rows say no more than one: as if each dialogue had one row.
    single = bootstrap(values[::4], range(30))
    assert whole.interval == pytest.approx(single.interval) and whole.error == pytest.approx(single.error)
    assert bootstrap(values, range(120)).error < 0.6 * whole.error


@pytest.mark.parametrize("count", [4, 12, 40])
def test_coverage_of_clustered_rows(count):
    """Rows of a dialogue share a part of their value; dialogues are of unlike length. Rows drawn alone cover far less."""
    rng, covered, alone, runs, few = np.random.default_rng(7), 0, 0, 2000, 300
    for seed in range(runs):
        clusters = np.repeat(np.arange(count), rng.integers(2, 7, count))
        values = rng.normal(0, 0.5, count)[clusters] + rng.normal(0, 0.7, len(clusters))
        settings = BootstrapSettings(resamples=500, seed=seed)
        found = bootstrap_mean(values, clusters, settings)
        covered += found.low <= 0 <= found.high
        if seed < few:
            found = bootstrap_mean(values, range(len(values)), settings)
            alone += found.low <= 0 <= found.high
    assert 0.93 <= covered / runs <= 0.97
    assert alone / few < 0.88


@pytest.mark.parametrize("count", [12, 40])
def test_coverage_of_clustered_shares(count):
    """Of a dialogue's two to six rows each is a hit as often as its dialogue has it, from never to always: half of all."""
    rng, covered, alone, runs = np.random.default_rng(11), 0, 0, 600
    for seed in range(runs):
        clusters = np.repeat(np.arange(count), rng.integers(2, 7, count))
        hits = (rng.random(len(clusters)) < rng.beta(0.5, 0.5, count)[clusters]).astype(float)
        settings = BootstrapSettings(resamples=200, seed=seed)
        found = bootstrap_share(hits, clusters, settings)
        covered += found.low <= 0.5 <= found.high
        found = bootstrap_share(hits, range(len(hits)), settings)
        alone += found.low <= 0.5 <= found.high
    assert 0.92 <= covered / runs <= 0.98
    assert alone / runs < 0.85


def test_coverage_of_a_ratio_of_clustered_sums():
    """As perplexity is made: nats over tokens, both of rows whose dialogue has a level of its own, two nats a token in all."""
    rng, covered, alone, runs, count = np.random.default_rng(13), 0, 0, 400, 30
    for seed in range(runs):
        clusters = np.repeat(np.arange(count), rng.integers(2, 7, count))
        tokens = rng.integers(3, 30, len(clusters)).astype(float)
        nats = tokens * (2 + rng.normal(0, 0.5, count)[clusters] + rng.normal(0, 0.3, len(clusters)))
        counts, settings = np.stack([nats, tokens], 1), BootstrapSettings(resamples=100, seed=seed)
        for each, names in (("dialogues", clusters), ("rows", range(len(clusters)))):
            found = bootstrap_of(counts, names, lambda sums: sums[0] / sums[1], settings)
            held = found.low <= 2 <= found.high
            covered, alone = (covered + held, alone) if each == "dialogues" else (covered, alone + held)
    assert 0.91 <= covered / runs <= 0.98
    assert alone / runs < 0.85


def test_a_resample_that_has_no_such_figure_is_left_out():
    """Of two dialogues only one has tokens: a resample without it has no ratio, and the others have the same."""
    counts = np.array([[6.0, 3.0], [0.0, 0.0]])
    found = bootstrap_of(counts, "ab", lambda sums: sums[0] / sums[1] if sums[1] else math.nan)
    assert found == (2.0, 2.0, 2.0)
    assert math.isnan(bootstrap_of(counts[1:].repeat(2, 0), "ab", lambda _: math.nan).low)


def test_shares_by_hand():
    """Of three dialogues that are all wrong: Wilson, z^2 / (n + z^2) with z = 1.96 and n = 3."""
    found = bootstrap_share([0.0] * 8, [0, 0, 0, 1, 1, 1, 2, 2])
    assert found == pytest.approx((0.0, 0.0, 3.8415 / 6.8415), abs=1e-4)
    assert bootstrap_share([1.0] * 4, range(4)) == pytest.approx((1.0, 4 / 7.8415, 1.0), abs=1e-4)
    # Half of each of four dialogues is as two of four: Wilson's interval is 0.150 to 0.850 in any table.
    half = bootstrap_share([0.0, 1.0] * 4, [0, 0, 1, 1, 2, 2, 3, 3])
    assert half == pytest.approx((0.5, 0.15, 0.85), abs=1e-4)
    # A third of each of six, a share that no float is: two of six, 0.0968 to 0.7000.
    third = bootstrap_share([1.0, 0.0, 0.0] * 6, np.repeat(np.arange(6), 3))
    assert third == pytest.approx((1 / 3, 0.0968, 0.7), abs=1e-4)
    assert math.isnan(bootstrap_share([1.0], ["d"]).low)
    mixed = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert bootstrap_share(mixed, range(6)).high == 1.0 < bootstrap_mean(mixed, range(6)).high


def test_quantiles_of_student_against_printed_tables():
    """Any table of t: two-sided 5 %, and one-sided 20 %."""
    printed = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 1000: 1.962}
    for freedom, value in printed.items():
        assert t_quantile(0.975, freedom) == pytest.approx(value, abs=0.005)
        assert t_quantile(0.025, freedom) == pytest.approx(-value, abs=0.005)
    for freedom, value in {1: 1.376, 2: 1.061, 5: 0.920, 30: 0.854}.items():
        assert t_quantile(0.8, freedom) == pytest.approx(value, abs=0.005)
    assert t_quantile(0.5, 7) == pytest.approx(0, abs=1e-12)
    for share, freedom in ((0, 3), (1, 3), (0.5, 0)):
        with pytest.raises(ValueError):
            t_quantile(share, freedom)
