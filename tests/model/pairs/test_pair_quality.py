"""What tells chosen from rejected replies besides emotion: planted differences are found, absent ones are not."""

import random

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from model.pairs.quality import (
    FUNCTION_WORDS,
    TextPair,
    _fit,
    length_features,
    pair_quality,
    ranking_accuracy,
    style_features,
)
from model.pairs.selection import balanced, choose_length_matched
from model.pairs.settings import QualitySettings

NOUNS = [f"noun{n}" for n in range(40)]


def _text(draw: random.Random, count: int, mark: str = ".") -> str:
    return " ".join(draw.choices(NOUNS, k=count)) + mark


def _pairs(chosen, rejected, count=300) -> list[TextPair]:
    draw = random.Random(0)
    return [TextPair(f"d{n // 3}", "a sentence", chosen(draw), rejected(draw)) for n in range(count)]


def _accuracy(pairs) -> tuple[float, float]:
    found = pair_quality(pairs, QualitySettings())["accuracy"]
    return found["length"], found["style"]


def test_replies_drawn_alike_are_told_by_neither():
    length, style = _accuracy(
        _pairs(lambda d: _text(d, d.randint(3, 20)), lambda d: _text(d, d.randint(3, 20)))
    )
    assert 0.4 < length < 0.6 and 0.4 < style < 0.6


def test_longer_replies_are_told_by_length_alone():
    length, style = _accuracy(
        _pairs(lambda d: _text(d, d.randint(3, 8)), lambda d: _text(d, d.randint(12, 20)))
    )
    assert length > 0.98


def test_lengths_in_the_middle_are_told_though_no_end_is():
    """Chosen 8 words, rejected 3 or 20: no single cut tells them, classes of length do."""
    length, _ = _accuracy(_pairs(lambda d: _text(d, 8), lambda d: _text(d, d.choice([3, 20]))))
    assert length > 0.98


def test_marks_and_function_words_are_told_by_style_alone():
    assert _accuracy(_pairs(lambda d: _text(d, 8, "!"), lambda d: _text(d, 8, ".")))[1] > 0.98
    words = _pairs(lambda d: "you know " + _text(d, 8), lambda d: "so that " + _text(d, 8))
    length, style = _accuracy(words)
    assert style > 0.98


def test_style_does_not_see_length():
    """The same words twice over are the same rates."""
    assert style_features("Oh you are so kind, ")[:-2] == pytest.approx(
        style_features("Oh you are so kind, " * 2)[:-2]
    )
    assert length_features("a b c") != length_features("a b c d e f")
    assert len(set(FUNCTION_WORDS)) == len(FUNCTION_WORDS)


def test_the_fit_is_logistic_regressions():
    generator = np.random.default_rng(0)
    differences = generator.normal(size=(200, 5)) + 0.3
    # A pair turned round is the same pair: so without an intercept, and both ways once.
    both = np.concatenate([differences, -differences])
    peer = LogisticRegression(fit_intercept=False, C=0.5, tol=1e-10, max_iter=1000)
    peer.fit(both, np.repeat([1, 0], 200))
    np.testing.assert_allclose(_fit(differences), peer.coef_[0], atol=1e-4)


def test_dialogues_are_never_split_between_training_and_test():
    """A mark of each dialogue's own tells its pairs apart only to whoever has seen the dialogue."""
    draw = random.Random(1)
    pairs = []
    for n in range(60):
        good, bad = draw.sample(range(20), 2)
        for _ in range(5):
            pairs.append(TextPair(f"d{n}", "s", f"w{good}", f"w{bad}"))
    seen = ranking_accuracy(pairs, lambda t: [float(t == f"w{k}") for k in range(20)], 5)
    assert seen < 0.65
    assert ranking_accuracy(pairs[:15], length_features, 5) is None


def test_figures_by_hand():
    pairs = [
        TextPair(
            "a", "Do you like the red car?", "Yes I do.", "Do you like the red one, do you like the sea?"
        ),
        TextPair("b", "Hello there.", "Go away.", "Go away now."),
        TextPair("c", "No.", "Why not?", "Go away now."),
    ]
    found = pair_quality(pairs, QualitySettings())
    assert found["words"] == {"chosen": 2.3333, "rejected": 5.6667}
    assert (found["longer"], found["shorter"]) == (1.0, 0.0)
    assert found["length_gap"] == pytest.approx((8 + 1 + 1) / 3, abs=1e-4)
    assert found["repetition"] == {"chosen": 0.0, "rejected": 0.3333}  # "do you like", twice
    assert found["echo"] == {"chosen": 0.0, "rejected": 0.3333}
    assert found["reused"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["overlap"] == pytest.approx((1 / 9 + 2 / 3 + 0) / 3, abs=1e-4)
    assert found["accuracy"] == {"length": None, "style": None} and found["above"] == []
    assert pair_quality([], QualitySettings())["overlap"] is None


def test_above_the_bound_is_named():
    pairs = _pairs(lambda d: _text(d, 4), lambda d: _text(d, 15))
    assert "length" in pair_quality(pairs, QualitySettings(bound=0.9))["above"]
    assert pair_quality(pairs, QualitySettings(bound=1.0))["above"] == []


def test_length_matched_choice():
    cosines, usable = [0.05, -0.3, 0.5, 0.02, 0.02], [True, True, True, False, True]
    lengths = [9, 30, 8, 8, 7]
    assert choose_length_matched(cosines, usable, lengths, 8, 0.1).index == 4  # as near as 0, less similar
    assert choose_length_matched(cosines, usable, lengths, 40, 0.1).index == 1
    assert choose_length_matched(cosines, usable, lengths, 8, -0.5).reason == "not_below_threshold"
    assert choose_length_matched([0.0], [False], [3], 3, 0.1).reason == "no_usable_candidate"


def test_balanced_keeps_as_many_longer_as_shorter():
    assert balanced([5, 1, 3, -2, 0]) == [False, True, False, True, True]
    assert balanced([2, 2, -1]) == [True, False, True]
    assert balanced([4, 5]) == [False, False] and balanced([]) == []
