"""Figure 6 by hand: six clips of three dialogues, two input settings, and what their controls answered."""

import pytest

from model.extractor.rows import INPUT_SETTINGS, EmotionExample
from model.metrics.settings import BootstrapSettings
from storage.store import Ref
from tasks.pipeline import STAGES
from tasks.stages.extractor.recognise import figure_6

LABELS = ["sad", "sad", "happy", "happy", "angry", "sad"]
CLIPS = [
    EmotionExample(f"k{i}", None, None, "Hm.", label, "meld" if i < 4 else "ravdess", f"d{i // 2}")
    for i, label in enumerate(LABELS)
]


def said(**answers: list) -> list[dict]:
    whole = [dict.fromkeys(INPUT_SETTINGS) for _ in CLIPS]
    for name, given in answers.items():
        for row, answer in zip(whole, given, strict=True):
            row[name] = answer
    return whole


OWN = said(
    A=["sad", "happy", "happy", "happy", "angry", None],
    T=["sad", "sad", "sad", "sad", "sad", "sad"],
)
OTHER = said(A=["sad", "sad", "sad", "happy", "sad", None])


def test_a_bar_by_hand():
    facts = figure_6(CLIPS, OWN, OTHER, BootstrapSettings())
    assert (facts["clips"], facts["dialogues"]) == (6, 3) and list(facts["accuracy"]) == ["A", "T"]
    bar = facts["accuracy"]["A"]
    assert (bar["clips"], bar["dialogues"], bar["accuracy"], bar["majority"]) == (5, 3, 0.8, 0.4)
    assert bar["balanced"] == pytest.approx((1 / 2 + 2 / 2 + 1 / 1) / 3, abs=1e-6)
    assert bar["confusion"] == {"angry": {"angry": 1}, "happy": {"happy": 2}, "sad": {"happy": 1, "sad": 1}}
    assert bar["other"] == 0.6  # of the same five clips: both that are sad, and one that is happy
    # Row by row: 1-1, 0-1, 1-0, 1-1, 1-0 over another clip; 1-1, 0-1, 1-0, 1-0, 1-0 over text.
    assert bar["over_other"]["mean"] == pytest.approx(1 / 5) and bar["over_text"]["mean"] == pytest.approx(
        2 / 5
    )
    assert (bar["over_text"]["rows"], bar["over_text"]["dialogues"]) == (5, 3)
    low, high = bar["accuracy_ci"]
    assert 0 <= low < 0.8 < high <= 1
    low, high = bar["balanced_ci"]
    assert 0 <= low < bar["balanced"] < high <= 1
    right = figure_6(CLIPS, said(A=LABELS), OTHER, BootstrapSettings())["accuracy"]["A"]
    assert right["balanced"] == 1 and right["balanced_ci"] is None  # nothing varied


def test_text_alone_has_no_other_clip():
    bar = figure_6(CLIPS, OWN, OTHER, BootstrapSettings())["accuracy"]["T"]
    assert (bar["clips"], bar["accuracy"], bar["other"], bar["over_other"], bar["over_text"]) == (
        6,
        0.5,
        None,
        None,
        None,
    )


def test_each_dataset_has_its_own_bars():
    facts = figure_6(CLIPS, OWN, OTHER, BootstrapSettings())["accuracy_by_dataset"]
    assert {name: bars["A"]["clips"] for name, bars in facts.items()} == {"meld": 4, "ravdess": 1}
    assert facts["ravdess"]["A"]["accuracy_ci"] is None  # one dialogue or actor: no interval


def test_settings_are_compared_on_the_clips_that_both_have():
    facts = figure_6(CLIPS, OWN, OTHER, BootstrapSettings())
    # Of the five clips with sound A has all but the second, T the first two: three to A alone, one to T alone.
    line = {"first": "A", "second": "T", "n": 5, "only_first": 3, "only_second": 1, "p": 10 / 16}
    assert facts["mcnemar"] == [line]
    assert facts["mcnemar_by_dataset"] == {
        "meld": [{**line, "n": 4, "only_first": 2, "p": 1.0}],
        "ravdess": [{**line, "n": 1, "only_first": 1, "only_second": 0, "p": 1.0}],
    }


def test_it_reads_test_and_dev_and_never_train():
    stage = next(stage for stage in STAGES if stage.name == "extractor.test")

    class Given:
        def ran(self, name):
            return True

        def only(self, name):
            return name

        def refs(self, name):
            return [
                Ref(name=f"{name}/meld/{split}/0", digest="0" * 32, size=1)
                for split in ("train", "dev", "test")
            ]

    call = stage.items(Given())["all"]
    for name in ("utterances", "features"):
        assert {ref.name.split("/")[2] for ref in call[name]} == {"dev", "test"}
