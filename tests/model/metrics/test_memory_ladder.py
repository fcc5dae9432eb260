"""The memory ladder's figures on rows small enough to calculate on paper."""

from dataclasses import replace

import numpy as np
import pytest

from model.metrics.memory_ladder import ArmRow, arm_figures, by_dataset, by_turn, comparisons, share
from model.metrics.settings import BootstrapSettings
from model.metrics.student import t_quantile

INTERVALS = BootstrapSettings(resamples=4000)


def rows(
    own: list[float], other: list[float], turns: list[int] | None = None, tokens: int = 10
) -> list[ArmRow]:
    """Two replies a dialogue."""
    return [
        ArmRow(f"k{i}", f"d{i // 2}", (turns or [3] * len(own))[i], a, b, tokens)
        for i, (a, b) in enumerate(zip(own, other, strict=True))
    ]


def test_means_gain_and_tokens_by_hand():
    arm = rows([3.0, 3.2, 3.4, 3.6, 2.0, 2.2, 2.4, 2.6], [3.5, 3.7, 3.7, 3.9, 2.4, 2.6, 2.8, 3.0], tokens=4)
    full = rows([2.8] * 8, [3.8] * 8, tokens=16)
    found = arm_figures(arm, full, INTERVALS)
    assert (found["n"], found["dialogues"], found["tokens"], found["saved"]) == (8, 4, 4.0, 0.75)
    assert found["own"] == pytest.approx(2.8) and found["other"] == pytest.approx(25.6 / 8)
    assert found["gain"]["mean"] == pytest.approx(0.4) and found["gain"]["grade"] == "learned"
    assert found["own_ci"][0] < 2.8 < found["own_ci"][1]
    # All of the full history's gain is 1.0 a reply, so the share is the gain.
    assert found["share"][0] == pytest.approx(0.4)
    assert found["both"] == {"rows": 8, "dialogues": 4}
    assert arm_figures(arm, full[:5], INTERVALS)["both"] == {"rows": 5, "dialogues": 3}
    assert arm_figures(arm, None, INTERVALS)["share"] is arm_figures(arm, None, INTERVALS)["saved"] is None
    assert arm_figures(full, full, INTERVALS)["share"] == [1.0, 1.0, 1.0]


def test_a_shares_interval_is_the_linearised_ratios():
    """With one reply a dialogue: the standard error of a ratio, from the textbook (Cochran, "Sampling Techniques", 6.4)."""
    generator = np.random.default_rng(3)
    of = 1.0 + generator.normal(0, 0.3, 40)
    gains = 0.6 * of + generator.normal(0, 0.2, 40)
    ratio = gains.sum() / of.sum()
    error = np.sqrt(((gains - ratio * of) ** 2).sum() / 39 / 40) / of.mean()
    found = share(gains, of, [f"d{i}" for i in range(40)], INTERVALS)
    reach = t_quantile(0.975, 39) * error
    assert found[0] == pytest.approx(ratio, abs=1e-6)
    assert found[1:] == pytest.approx([ratio - reach, ratio + reach], rel=0.02)


def test_whole_dialogues_are_resampled():
    """Said ten times over, a dialogue's replies say no more than once."""
    generator = np.random.default_rng(4)
    of = 1.0 + generator.normal(0, 0.3, 12)
    gains = 0.5 * of + generator.normal(0, 0.3, 12)
    once = share(gains, of, list(range(12)), INTERVALS)
    often = share(np.repeat(gains, 10), np.repeat(of, 10), list(np.repeat(range(12), 10)), INTERVALS)
    assert often == pytest.approx(once, abs=1e-5)


def test_a_share_of_what_is_not_seen_to_help_is_none():
    dialogues = list(range(8))
    gains = [0.1] * 8
    assert share(gains, [0.5, -0.5] * 4, dialogues, INTERVALS) is None
    assert share(gains, [-0.4, -0.5] * 4, dialogues, INTERVALS) is None
    assert share(gains[:3], [0.4, 0.5, 0.6], dialogues[:3], INTERVALS) is None  # too few dialogues to tell
    assert share(gains, [0.4, 0.5] * 4, dialogues, INTERVALS)[0] == pytest.approx(0.1 / 0.45, abs=1e-6)
    # A memory that harms keeps less than nothing.
    assert share([-0.2] * 8, [0.4, 0.5] * 4, dialogues, INTERVALS)[0] == pytest.approx(-0.2 / 0.45, abs=1e-6)


def test_turns_are_grouped_from_each_bound_to_the_next():
    turns = [2, 3, 5, 6, 9, 14, 29, 30]
    arm = rows([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [2.0] * 8, turns)
    found = {
        (part["from"], part["to"]): (part["own"], part["gain"]["rows"]) for part in by_turn(arm, INTERVALS)
    }
    assert found == {
        (2, 2): (1.0, 1), (3, 3): (2.0, 1), (4, 5): (3.0, 1), (6, 9): (4.5, 2), (10, 14): (6.0, 1),
        (15, 29): (7.0, 1), (30, None): (8.0, 1),
    }  # fmt: skip
    assert [part["from"] for part in by_turn(rows([1.0], [1.0], [7]), INTERVALS)] == [6]


def test_arms_are_compared_reply_by_reply_whatever_the_order():
    memory, mean = rows([3.0, 3.1, 2.9, 3.0] * 3, [3.0] * 12), rows([3.2, 3.3, 3.1, 3.2] * 3, [3.0] * 12)
    found = comparisons(
        {"mean": mean[::-1] + [replace(mean[0], key="alone", own=99.0)], "memory": memory}, INTERVALS
    )
    (beside,) = found
    assert (beside["arm"], beside["than"]) == ("memory", "mean")
    assert beside["difference"]["mean"] == pytest.approx(0.2) and beside["difference"]["grade"] == "learned"
    assert beside["difference"]["rows"] == 12


def test_each_dataset_is_told_alone_with_its_own_shares_and_comparisons():
    """By hand: of MELD's 1.0 a reply the memory keeps .1, of Topical-Chat's 2.0 a half; together neither is seen."""

    def of(dataset: str, gain: float, own: float) -> list[ArmRow]:
        return [
            replace(row, key=f"{dataset}/test/{row.key}", dialogue=(dataset, row.dialogue))
            for row in rows([own] * 8, [own + gain] * 8)
        ]

    arms = {
        "full": of("meld", 1.0, 2.0) + of("topical_chat", 2.0, 3.0),
        "mean": of("meld", 0.3, 2.1) + of("topical_chat", 0.4, 3.3),
        "memory": of("meld", 0.1, 2.2) + of("topical_chat", 1.0, 3.1),
    }
    found = by_dataset(arms, INTERVALS)
    assert list(found) == ["meld", "topical_chat"]
    shares = {name: part["arms"]["memory"]["share"][0] for name, part in found.items()}
    assert shares == {"meld": pytest.approx(0.1), "topical_chat": pytest.approx(0.5)}
    beside = {
        name: {(c["arm"], c["than"]): c["difference"]["mean"] for c in part["comparisons"]}
        for name, part in found.items()
    }
    assert beside["meld"] == {("memory", "mean"): pytest.approx(-0.1)}
    assert beside["topical_chat"] == {("memory", "mean"): pytest.approx(0.2)}
    assert {part["arms"]["full"]["n"] for part in found.values()} == {8}
    assert by_dataset({name: found[:8] for name, found in arms.items()}, INTERVALS) == {}
