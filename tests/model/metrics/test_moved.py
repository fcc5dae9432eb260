"""Worths of samples by hand; and trainings whose effect is known by construction, told from samples of before them."""

import math

import numpy as np
import pytest

from model.metrics.moved import OWN, USUAL, Sampled, moved, moved_by_dataset, worths
from model.metrics.settings import BootstrapSettings
from model.metrics.verdict import FEW, LEARNED, NO_DIFFERENCE

INTERVALS = BootstrapSettings()


class Flat:
    """Texts are numbers: degrees on the unit circle, so that a cosine is worked out by hand."""

    def features(self, texts):
        turns = np.radians([float(text) for text in texts])
        return np.stack([np.cos(turns), np.sin(turns)], 1).astype(np.float32)


def test_worths_by_hand():
    """References at 0 and 90 degrees of one dataset, and one of another dataset that has no other."""
    found = worths([["0", "60"], ["90"], ["30"]], ["0", "90", "0"], ["a", "a", "b"], Flat())
    assert found[0][OWN] == pytest.approx([1 - 0, 0.5 - math.sqrt(3) / 2], abs=1e-6)
    assert found[0][USUAL] == pytest.approx([0, math.sqrt(3) / 2], abs=1e-6)
    assert found[1][OWN] == pytest.approx([1], abs=1e-6) and found[1][USUAL] == pytest.approx([0], abs=1e-6)
    assert np.isnan(found[2][OWN]).all() and np.isnan(found[2][USUAL]).all()


def drawn(
    draw: np.random.Generator, exchanges: int = 120, samples: int = 8, dataset: str = "a"
) -> list[Sampled]:
    """Two exchanges a dialogue; samples equally likely before."""
    return [
        Sampled(
            dataset=dataset,
            dialogue=(dataset, number // 2),
            before=[10.0] * samples,
            tokens=[5] * samples,
            worth={OWN: draw.normal(0, 0.3, samples), USUAL: draw.normal(0, 0.3, samples)},
        )
        for number in range(exchanges)
    ]


def test_a_training_that_favours_its_own_reference_is_told_from_one_that_favours_the_usual():
    exchanges = drawn(np.random.default_rng(0))
    after = {
        "epo": [[10.0 - worth for worth in e.worth[OWN]] for e in exchanges],
        "shuffled": [[10.0 - worth for worth in e.worth[USUAL]] for e in exchanges],
        "nll": [[9.0] * 8 for _ in exchanges],  # all likelier alike, which changes nothing among them
    }
    found = moved(exchanges, after, "epo", INTERVALS)
    own, usual = (found["trainings"]["epo"][worth] for worth in (OWN, USUAL))
    assert own["grade"] == LEARNED and usual["grade"] == NO_DIFFERENCE and own["dialogues"] == 60
    assert found["trainings"]["shuffled"][USUAL]["grade"] == LEARNED
    assert found["trainings"]["nll"][OWN]["mean"] == 0 and found["trainings"]["nll"]["effective_share"] == 1
    assert found["trainings"]["epo"]["concordance"]["mean"] == 0.5  # the better one always gained more
    assert set(found["beside"]) == {"shuffled", "nll"}
    assert found["beside"]["shuffled"][OWN]["grade"] == LEARNED
    assert found["beside"]["nll"][OWN]["mean"] == pytest.approx(own["mean"])
    # Of one exchange by hand: weights exp(worth), normalised.
    one = exchanges[0].worth[OWN]
    weights = np.exp(one) / np.exp(one).sum()
    alone = moved(exchanges[:1], {"epo": after["epo"][:1]}, "epo", INTERVALS)["trainings"]["epo"][OWN]
    assert alone["mean"] == pytest.approx(weights @ one - one.mean(), abs=1e-6) and alone["grade"] == FEW


def test_exchanges_without_a_worth_are_left_out_and_no_exchange_decides_nothing():
    exchanges = drawn(np.random.default_rng(1), 10)
    lone = Sampled("a", "lone", [1.0, 1.0], [5, 5], {OWN: [math.nan] * 2, USUAL: [math.nan] * 2})
    after = {"epo": [*([9.0] * 8 for _ in exchanges), [2.0, 1.0]]}
    assert moved([*exchanges, lone], after, "epo", INTERVALS)["trainings"]["epo"][OWN]["rows"] == 10
    none = moved([], {"epo": []}, "epo", INTERVALS)["trainings"]["epo"]
    assert none[OWN]["grade"] == FEW and none["effective_share"] is None


def test_what_one_dataset_shows_is_not_lost_in_another_that_shows_nothing():
    """EPO favours the own reference in one dataset alone; together the other one halves what is seen of it."""
    draw = np.random.default_rng(2)
    told, hidden = drawn(draw, 60, dataset="told"), drawn(draw, 40, dataset="hidden")
    after = {
        "epo": [[10.0 - worth for worth in e.worth[OWN]] for e in told] + [[10.0] * 8 for _ in hidden],
        "nll": [[10.0] * 8 for _ in (*told, *hidden)],
    }
    # In turn, as exchanges may lie: each is judged by its own dataset's alone.
    order = draw.permutation(100)
    exchanges = [[*told, *hidden][i] for i in order]
    after = {name: [rows[i] for i in order] for name, rows in after.items()}
    found = moved_by_dataset(exchanges, after, "epo", INTERVALS)
    assert list(found) == ["hidden", "told"]
    assert found["hidden"]["trainings"]["epo"][OWN]["mean"] == 0
    assert found["hidden"]["beside"]["nll"][OWN]["grade"] == NO_DIFFERENCE
    alone = moved(told, {"epo": [[10.0 - w for w in e.worth[OWN]] for e in told]}, "epo", INTERVALS)
    own, gained = alone["trainings"]["epo"][OWN], found["told"]["trainings"]["epo"][OWN]
    assert gained["mean"] == pytest.approx(own["mean"]) and gained["grade"] == LEARNED
    whole = moved(exchanges, after, "epo", INTERVALS)["trainings"]["epo"][OWN]["mean"]
    assert whole == pytest.approx(0.6 * own["mean"], abs=1e-6)
    assert {name: found["told"][name] for name in ("exchanges", "dialogues", "samples")} == {
        "exchanges": 60,
        "dialogues": 30,
        "samples": 480,
    }
    assert moved_by_dataset(told, {"epo": after["epo"][:60]}, "epo", INTERVALS) == {}
