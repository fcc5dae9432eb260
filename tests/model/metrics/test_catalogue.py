"""Every metric of the catalogue on replies that nobody would wish for, and against sacrebleu and counts by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from model.metrics.bertscore import baseline
from model.metrics.bootstrap import bootstrap, bootstrap_of
from model.metrics.catalogue import METRICS, Answers, Likelihoods
from model.metrics.dist import dist_corpus, dist_per_reply
from model.metrics.emotion_of import GROUPS, agreement, agreement_counts
from model.metrics.overlap import bleu, bleu_counts, chrf
from model.metrics.repetition import looping, repeating
from model.metrics.settings import BootstrapSettings
from model.metrics.stuck import stuck_share
from model.scorer.labels import GOEMOTIONS_LABELS
from tasks.report.paper_tables import METRICS as PAPER

GOLDEN = json.loads(Path(__file__).with_name("sacrebleu.json").read_text(encoding="utf-8"))
BY_KEY = {metric.key: metric for metric in METRICS}


class Emotions:
    """Anything unit-long, by the text's own bytes."""

    def features(self, texts):
        rows = np.array([[len(text) + 1.0, sum(text.encode()) % 7 + 1.0] for text in texts]).reshape(-1, 2)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def probabilities(self, texts):
        return np.full((len(texts), len(GOEMOTIONS_LABELS)), 0.1, np.float32)


def answers(replies, references=None, **more) -> Answers:
    n = len(replies)
    given = {"emotions": [None] * n, "f1": np.full(n, 0.5), "likelihoods": Likelihoods.none(n)} | more
    references = references or [f"true {i}" for i in range(n)]
    return Answers(replies, references, ["meld"] * n, first=Emotions(), second=Emotions(), **given)


def test_the_paper_s_metrics_are_declared_and_keys_are_one_s_own():
    assert tuple(metric.key for metric in METRICS if metric.paper) == PAPER
    assert len(BY_KEY) == len(METRICS)


def test_bleu_and_chrf_are_sacrebleu_s():
    said, true = GOLDEN["replies"], GOLDEN["references"]
    counts = bleu_counts(said, true)
    for order in (1, 4):
        assert bleu(order)(counts.sum(0)) == pytest.approx(GOLDEN[f"bleu{order}"], abs=1e-9)
        each = [bleu(order)(row) for row in counts]
        assert each == pytest.approx(GOLDEN[f"bleu{order}_each"], abs=1e-9)
    assert chrf(said, true).tolist() == pytest.approx(GOLDEN["chrf"], abs=1e-9)


def test_dist_by_hand():
    replies = ["No, no, no!", "yes", "yes I do, I do"]
    # no-no once of two; nothing of one word; yes-I, I-do, do-I of four.
    assert dist_per_reply(replies, 2).tolist() == [0.5, 0.0, 0.75]
    assert dist_corpus(replies, 2) == 4 / 6 and dist_corpus(["", "one"], 2) == 0.0


def test_repetition_by_hand():
    said = ["no no no", "I do I do", "a b c and a b c", "I see. I see. I see.", "", "fine"]
    assert looping(said).tolist() == [1, 0, 0, 1, 0, 0]
    assert repeating(said).tolist() == [0, 0, 1, 1, 0, 0]


def test_empty_and_looped_replies_are_one_share_that_epo_ends_by():
    said = ["", " … !", "I know I know I know", "no no no", "I see. I see.", "Fine."]
    found = BY_KEY["stuck"].measure(answers(said, [" "] * len(said)))
    assert found.tolist() == [1, 1, 1, 0, 0, 0] and found.mean() == stuck_share(said)
    assert BY_KEY["stuck"].better == "lower" and BY_KEY["stuck"].per == "reply"


def test_a_labelled_emotion_is_met_by_the_likeliest_of_six_and_neutral_ones_are_left_out():
    rows = np.full((4, len(GOEMOTIONS_LABELS)), 0.1)
    for row, label in enumerate(("gratitude", "anger", "grief", "joy")):
        rows[row, GOEMOTIONS_LABELS.index(label)] = 0.6
    rows[:, GOEMOTIONS_LABELS.index("neutral")] = 0.9
    found = agreement_counts(rows, ["happy", "sad", "sad", "neutral"])
    there, met = list(GROUPS), [f"{name} met" for name in GROUPS]
    told = [{name for name, one in zip(there + met, row, strict=True) if one} for row in found[:3]]
    assert told == [{"happy", "happy met"}, {"sad"}, {"sad", "sad met"}] and np.isnan(found[3]).all()
    # Happy: one of one; sad: one of two.
    assert agreement(found[:3].sum(0)) == (1 + 1 / 2) / 2
    assert sorted(label for group in GROUPS.values() for label in group) == sorted(GOEMOTIONS_LABELS[:-1])


def test_one_emotion_said_to_everything_has_one_in_as_many_labels_as_occur():
    """Of the commonest label, which is nine of twelve: three labels occur, so a third, and not three quarters."""
    rows = np.full((12, len(GOEMOTIONS_LABELS)), 0.1)
    rows[:, GOEMOTIONS_LABELS.index("joy")] = 0.6
    counts = agreement_counts(rows, ["happy"] * 9 + ["sad", "sad", "angry"])
    assert agreement(counts.sum(0)) == pytest.approx(1 / 3)
    assert math.isnan(agreement(np.zeros(12))) and agreement_counts(rows[:0], []).shape == (0, 12)


def test_likelihoods_give_perplexity_and_preference_by_hand():
    known = Likelihoods(
        np.array([2.0, 6.0, np.nan]), np.array([2, 3, np.nan]), np.array([1.5, 1.0, 2.0]), np.full(3, np.nan)
    )
    made = answers(["a", "b", "c"], likelihoods=known)
    counts = BY_KEY["perplexity"].measure(made)[:2]
    assert BY_KEY["perplexity"].whole(counts.sum(0)) == pytest.approx(math.exp(8 / 5))
    assert BY_KEY["log_likelihood"].measure(made)[:2].tolist() == [-1.0, -2.0]
    preferred = BY_KEY["emotional_preference"].measure(made)
    assert preferred[:2].tolist() == [1.0, 0.0] and math.isnan(preferred[2])
    assert np.isnan(BY_KEY["same_emotion_preference"].measure(made)).all()
    assert np.isnan(BY_KEY["preference_beyond_topic"].measure(made)).all()
    # True replies at 1, 2, 1 and 1 nats a token: only the first is preferred for its emotion; the fourth has no such other.
    beside = Likelihoods(
        np.array([2.0, 6.0, 2.0, 2.0]), np.array([2, 3, 2, 2]), np.array([1.5, 1.0, 2.0, 2.0]),
        np.array([0.5, 2.0, 2.0, np.nan]),
    )  # fmt: skip
    beyond = BY_KEY["preference_beyond_topic"].measure(answers(["a", "b", "c", "d"], likelihoods=beside))
    assert beyond[:3].tolist() == [1.0, -0.5, 0.0] and math.isnan(beyond[3])


def test_bertscore_is_rescaled_as_bert_score_does_where_it_has_a_baseline():
    """The example of bert-score's README, by hand: (0.959333 - 0.83122575) / (1 - 0.83122575) = 0.759045."""
    zero = baseline("roberta-large", 17)
    assert zero == 0.83122575 and baseline("minilm-l6", 6) is None
    rescaled = BY_KEY["bertscore_rescaled"].measure(answers(["a"], f1=np.array([0.959333]), baseline=zero))
    assert rescaled.tolist() == pytest.approx([0.759045], abs=1e-6)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_no_reply_is_too_odd_for_a_metric(metric):
    odd = ["", "   ", "No", "😀😀😀", "word " * 2000, "\x00\n\t", "a" * 10_000]
    made = answers(odd, emotions=["sad"] * len(odd), baseline=0.8)
    if metric.of is None:
        assert 0 <= metric.of_texts(odd) <= 1 and metric.of_texts([]) == 0
        return
    found = metric.measure(made)
    assert len(found) == len(odd) and not np.isinf(found).any()
    value = metric.whole(found.sum(0)) if metric.whole else found
    known = np.array(value)[~np.isnan(value)]
    assert ((metric.low - 1e-6 <= known) & (known <= metric.high + 1e-6)).all()
    assert len(metric.measure(answers([]))) == 0


@pytest.mark.parametrize("metric", [m for m in METRICS if m.of], ids=lambda metric: metric.key)
def test_a_reply_without_a_reference_is_left_out_of_what_compares(metric):
    found = metric.measure(
        answers(["yes", "yes", "yes"], ["yes", " ", "no"], emotions=["sad"] * 3, baseline=0.8)
    )
    gone = np.isnan(found).reshape(3, -1).all(1)
    if metric.key in ("perplexity", "log_likelihood") or "preference" in metric.key:
        assert gone.all()  # nothing was asked
    else:
        assert gone.tolist() == [False, metric.compared, False]


def test_the_interval_of_a_figure_of_summed_counts_is_a_mean_s_where_the_figure_is_a_mean():
    values = np.random.default_rng(1).normal(size=60)
    clusters = [i // 3 for i in range(60)]
    counts = np.stack([values, np.ones(60)], 1)
    settings = BootstrapSettings(resamples=4000)
    found = bootstrap_of(counts, clusters, lambda sums: sums[0] / sums[1], settings)
    wanted = bootstrap(values, clusters, settings).interval
    assert found.mean == pytest.approx(wanted.mean) and found.low == pytest.approx(wanted.low, abs=0.02)
    assert math.isnan(bootstrap_of(counts[:3], [1, 1, 1], lambda s: s[0], settings).low)
    assert math.isnan(bootstrap_of(counts[:0], [], lambda s: s[0], settings).mean)
    with pytest.raises(ValueError, match="pair them up"):
        bootstrap_of(counts, [1], lambda s: s[0])
