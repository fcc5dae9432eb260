"""Why EPO ends and what it keeps: from histories by hand, and of trainings."""

from dataclasses import replace

import pytest

from model.epo.ending import ending, following, ranking
from model.epo.settings import EpoSettings
from model.epo.train import Pairs, row_margins, train_epo
from model.training import History
from tests.model.epo.test_epo_train import SETTINGS, pairs, tiny_dialogue


def history(*checks: dict, steps: int = 0) -> History:
    flat = {"reward_chosen": -1.0, "reward_rejected": -1.0}
    train = [{"step": i + 1, **flat} for i in range(steps)]
    return History(
        train=train, heldout=[{"step": i, "accuracy": 0.4, **check} for i, check in enumerate(checks)]
    )


def test_a_ranking_has_moved_where_its_interval_excludes_the_start():
    """Of eight dialogues seven are ranked right that were wrong, of one dialogue eight are: too few to tell."""
    start, now, groups = [-1.0] * 8, [1.0] * 7 + [-1.0], list("abcdefgh")
    found = ranking(start, now, groups)
    assert (
        found["accuracy_gain"] == pytest.approx(7 / 8)
        and found["accuracy_gain_low"] > 0
        and found["moved"] == 1
    )
    assert ranking(start, start, groups)["moved"] == 0 and ranking(start, start, groups)["accuracy_gain"] == 0
    alone = ranking(start, now, ["a"] * 8)
    assert alone == {"accuracy_gain": 7 / 8, "moved": 0.0}
    worse = ranking(now, start, groups)
    assert worse["accuracy_gain"] == pytest.approx(-7 / 8) and worse["moved"] == 0


def test_training_ends_where_the_ranking_has_moved_if_that_was_asked_for():
    moved = {"accuracy": 0.7, "moved": 1.0, "accuracy_gain_low": 0.1, "accuracy_gain_high": 0.5}
    both = history({"moved": 0.0}, moved, steps=1)
    rule = ending(EpoSettings(until="moved"), 50, 32)
    assert rule.ends(both) == "held-out ranking that has moved: 40% → 70%, by +0.100 to +0.500"
    assert rule.keeps(both) is True and rule.keeps(history({"moved": 0.0})) is None
    assert rule.ends(history({"moved": 0.0}, {"moved": 0.0}, steps=1)) == ""
    usual = ending(EpoSettings(), 50, 32)
    assert usual.ends(both) == "" and usual.keeps(both) is None


@pytest.mark.parametrize("dialogues, ended", [(6, True), (1, False)])
def test_a_training_ends_and_is_kept_at_the_check_that_says_so(tmp_path, dialogues, ended):
    """All six held-out pairs are ranked wrong at first and right at the first check: of one dialogue they tell nothing."""
    heldout = [
        replace(pair, example=replace(pair.example, dialogue=f"d{i % dialogues}"))
        for i, pair in enumerate(pairs(6))
    ]
    often = SETTINGS.training.model_copy(update={"evaluations": 6})
    model = tiny_dialogue()
    asked = EpoSettings(until="moved", training=often)
    report = train_epo(model, pairs(12), heldout, asked, tmp_path)
    history = report["history"]
    assert [check["accuracy"] for check in history["heldout"][:2]] == [0.0, 1.0]
    if not ended:
        assert len(history["train"]) == 18 and "moved" not in history["ended"]
        return
    assert history["ended"].startswith("held-out ranking that has moved: 0% → 100%, by +1.000")
    assert len(history["train"]) == history["best_step"] == 3 == report["heldout_after"]["step"]
    assert len(history["heldout"]) == 2 and history["heldout"][1]["moved"] == 1
    # What is left in the model, and saved, are that step's weights.
    assert row_margins(Pairs(model, heldout), asked) == pytest.approx(
        report["compared"]["margin_after"], abs=1e-5
    )


@pytest.mark.parametrize(
    "first, now, ends",
    [(0.0, 2 / 32, True), (0.0, 1 / 32, False), (0.25, 0.25, False), (0.25, 0.5, True), (0.0, 0.0, False)],
)
def test_stuck_replies_end_it_above_the_bound_and_the_start_and_one_alone_does_not(first, now, ends):
    found = history({"stuck": first}, {"stuck": now}, steps=1)
    rule = ending(EpoSettings(), 50, 32)
    assert bool(rule.ends(found)) is ends and rule.keeps(found) is (False if ends else None)
    if ends:
        assert f"{now:.0%} of 32 at step 1" in rule.ends(found) and "bound of 3%" in rule.ends(found)
    assert ending(EpoSettings(max_stuck_share=0.6), 50, 32).ends(found) == ""


def test_a_collapse_ends_it():
    found = history({}, steps=12)
    rule = ending(EpoSettings(), 10, 0)
    assert rule.ends(found) == ""
    for i, entry in enumerate(found.train):
        entry |= {"reward_chosen": -float(i), "reward_rejected": -2.0 * i}
    assert rule.ends(found) == "collapse: both rewards fell for 10 steps"
    assert ending(EpoSettings(), 13, 0).ends(found) == ""


def test_a_training_that_follows_takes_as_many_steps_and_keeps_the_last():
    rule = following(3)
    assert (
        rule.ends(history({}, steps=2)) == ""
        and rule.ends(history({}, steps=3)) == "the step that EPO kept, 3"
    )
    assert rule.keeps(history({}, steps=3)) is True and rule.keeps(history({}, steps=1)) is False
    assert following(0).ends(history({})) and following(0).keeps(history({})) is True
