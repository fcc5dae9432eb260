"""What a run says of a trained stage: graded by its rows, beside the right control, and never more than they show."""

import json

import pytest

from model.metrics.verdict import FEW, LEARNED, NO_DIFFERENCE, NOT_FINITE, NOT_TRAINED, WORSE, Verdict
from storage.store import Store
from tasks.stages.verdicts import (
    interval_text,
    judged,
    metrics_line,
    recognition_line,
    scorers_line,
    training_line,
    verdict_text,
)

DIALOGUES = 8
NOISE = [0.02 * (i % 4 - 1.5) for i in range(DIALOGUES)]
"""Differences of each dialogue from the common gain; their mean is zero."""


def test_an_interval_of_what_never_varied_is_none_and_a_narrow_one_gets_digits():
    assert interval_text(0.0, 0.0) == "all alike" == interval_text(0.25, 0.25, 1)
    assert interval_text(-0.004, 0.031) == "−0.004 to 0.031"
    assert interval_text(0.12341, 0.12344) == "0.12341 to 0.12344"  # .123 to .123 would look like none
    nothing = Verdict(NO_DIFFERENCE, 0.0, 0.0, 0.0, rows=8, dialogues=8, detectable=0.0)
    text = verdict_text("Dist-1", nothing)
    assert "all alike" in text and "could have been" not in text


def report(steps: int = 5, dialogues: int = DIALOGUES, **gains: float) -> dict:
    """A training whose held-out rows, one a dialogue, gained so much: by the loss, and over each control."""
    after = [3.0 + i / 10 for i in range(dialogues)]

    def higher(gain: float) -> list[float]:
        return [a + gain + NOISE[i % DIALOGUES] for i, a in enumerate(after)]

    compared = {"dialogue": list(range(dialogues)), "before": higher(gains.pop("loss", 0.5)), "after": after}
    compared |= {f"other_{name}": higher(gain) for name, gain in gains.items()}
    return {
        "heldout_before": {"loss": 4.1},
        "heldout_after": {"loss": 3.5},
        "history": {"train": [{"step": i + 1, "loss": 1.0} for i in range(steps)], "best_step": steps},
        "compared": compared,
    }


def epo(right: tuple[int, int], own: float, shuffled: float, loss: float = 0.5) -> dict:
    """`right`: how many of eight pairs are ranked right before and after; gains of the margins."""
    made = report(loss=loss)
    before, after = made["compared"].pop("before"), made["compared"].pop("after")
    ranked = [[float(i < count) for i in range(DIALOGUES)] for count in right]
    made["compared"] |= {
        "epo_before": before, "epo_after": after, "right_before": ranked[0], "right_after": ranked[1],
        "margin_before": [-3.0] * DIALOGUES, "margin_after": [own - 3.0 + n for n in NOISE],
        "shuffled_before": [-2.0] * DIALOGUES, "shuffled_after": [shuffled - 2.0 - n for n in NOISE],
    }  # fmt: skip
    for when, count in zip(("before", "after"), right, strict=True):
        made[f"heldout_{when}"]["accuracy"] = count / DIALOGUES
    return made | {"collapsed": False}


def line(tmp_path, report: dict) -> str | None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "report.json").write_text(json.dumps(report))
    store = Store(tmp_path / "store")
    return training_line(store, (store.put_tree("model", tmp_path / "model"),))


@pytest.mark.parametrize(
    "made, grade",
    [
        (report(history=0.1), LEARNED),
        (report(history=0.1, clip=0.1), LEARNED),
        (report(memory=0.003), "loss fell, the own memory is not seen to help"),
        (
            report(history=0.003, clip=-0.2),
            "loss fell, the own history is not seen to help; the own clip is not seen to help",
        ),
        (report(loss=0.001, history=0.1), NO_DIFFERENCE),
        (report(loss=-0.3, history=0.1), WORSE),
        (report(steps=0, loss=0.5, memory=0.5), NOT_TRAINED),
        (report(dialogues=3, history=0.1), FEW),
        (report(loss=float("nan")), NOT_FINITE),
        (epo((0, 7), 0.6, 0.1), LEARNED),
        (epo((0, 0), 0.6, 0.1), "loss fell, ranking did not"),
        (epo((0, 0), 0.1, 0.1), "loss fell, ranking did not"),
        (epo((0, 7), 0.3, 0.3), "loss fell, the own pair's margin no more than a shuffled pair's"),
        ({**report(), "compared": {}}, None),
    ],
)
def test_grades(made, grade):
    assert judged(made)["grade"] == grade


def test_findings_are_means_of_the_rows_differences():
    found = {f["about"]: f for f in judged(epo((1, 7), 0.6, 0.1))["findings"]}
    assert set(found) == {"training", "ranking", "pair"}
    assert found["training"]["mean"] == pytest.approx(0.5)
    assert found["ranking"]["mean"] == pytest.approx(6 / 8)
    assert found["pair"]["mean"] == pytest.approx(0.5)  # 0.6 on the own pair, 0.1 on another's
    assert all(f["rows"] == f["dialogues"] == DIALOGUES for f in found.values())


def test_a_row_without_a_control_is_left_out_of_that_finding_alone():
    made = report(history=0.1)
    made["compared"]["other_history"][0] = None
    found = {f["about"]: f["rows"] for f in judged(made)["findings"]}
    assert found == {"training": 8, "history": 7}


def test_a_gain_is_told_with_its_interval_and_its_control(tmp_path):
    said = line(tmp_path, report(history=0.1))
    assert said.startswith("held-out loss 4.100 → 3.500: learned; training +0.500 (0.4")
    assert "history +0.100 (0.0" in said and said.endswith("n = 8 (8 dialogues)")


def test_what_could_have_been_seen_is_told(tmp_path):
    said = line(tmp_path, report(memory=0.001))
    assert "loss fell, the own memory is not seen to help; training" in said
    assert ": no difference seen: n = 8 (8 dialogues), 0.0" in said and said.endswith("could have been")


def test_too_few_are_told_with_their_number(tmp_path):
    said = line(tmp_path, report(dialogues=1, history=0.1))
    assert said == "held-out loss 4.100 → 3.500: not distinguishable: n = 1 (1 dialogue), and it takes 4"


def test_no_step_is_no_training(tmp_path):
    assert ": not trained; " in line(tmp_path, report(steps=0, memory=0.5))


def test_a_start_that_nothing_beat_is_told(tmp_path):
    made = report(loss=0.0, history=0.1)
    made["history"]["best_step"] = 0
    assert "no check beat the start" in line(tmp_path, made)


def test_epo_that_ranks_as_before_is_told_so(tmp_path):
    said = line(tmp_path, epo((0, 0), 0.6, 0.1))
    assert "loss fell, ranking did not; 0% → 0% ranked right; " in said


def test_a_report_without_rows_says_so(tmp_path):
    bare = {"heldout_before": {"loss": 4.1}, "heldout_after": {"loss": 3.5}}
    assert line(tmp_path, bare) == "held-out loss 4.100 → 3.500: does not say whether it learned"


def test_a_collapse_of_epo_is_told(tmp_path):
    for number, (collapsed, step, told) in enumerate(
        (
            (True, 62, "learned; COLLAPSED: at step 62"),
            (None, None, "too few steps to tell a collapse"),
            (False, None, ": learned; "),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        said = line(folder, {**epo((0, 7), 0.6, 0.1), "collapsed": collapsed, "collapsed_at_step": step})
        assert told in said and ("COLLAPSED" in said) == bool(collapsed)


def test_other_artefacts_have_no_line(tmp_path):
    store = Store(tmp_path)
    refs = (store.put_bytes("shard", b"x"),)
    assert training_line(store, refs) is recognition_line(store, refs) is metrics_line(store, refs) is None


def test_a_second_scorer_on_the_same_encoder_is_told_wherever_it_decides(tmp_path):
    alike = {"correlation": 0.9012, "replies": 200, "same_encoder": True}
    assert scorers_line(alike) == (
        "the two scorers correlate 0.90 on this run's 200 replies and share an encoder: the second is no independent "
        "witness"
    )
    ends = {**alike, "correlation_ci": [0.8512, 0.9349]}
    assert scorers_line(ends).startswith(
        "the two scorers correlate 0.90 (0.85 to 0.93) on this run's 200 replies"
    )
    assert "share" not in scorers_line({**alike, "same_encoder": False})
    assert "not measured" in scorers_line(None) and "not measured" in scorers_line(
        {**alike, "correlation": None}
    )
    found = {"grade": NO_DIFFERENCE, "mean": -0.01, "low": -0.03, "high": 0.01, "rows": 40, "dialogues": 12}
    step = {"rung": "5-epo", "against": "4-av", "emotioncontrast_second": {**found, "detectable": 0.028}}
    store = Store(tmp_path)
    facts = json.dumps({"steps": [step], "scorers": alike}).encode()
    said = metrics_line(store, (store.put_bytes("metrics.json", facts),))
    assert said == (
        "5-epo over 4-av: emotion contrast, second scorer, −0.010 (−0.030 to 0.010): no difference seen: n = 40 (12 "
        f"dialogues), 0.028 could have been; {scorers_line(alike)}"
    )
