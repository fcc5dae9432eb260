"""Every metric of replies, declared once: what it is called, which way is better, and the function that measures it.

Stage, page, terminal, JSON and CSV loop over METRICS: one that is added here stands in all of them. Knows nothing of
systems, stages or stores; imports no torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from model.metrics.dist import dist_corpus, dist_per_reply, words
from model.metrics.emotion_of import agreement, agreement_counts
from model.metrics.emotion_score import emotion_contrasts, emotion_scores
from model.metrics.overlap import bleu, bleu_counts, chrf
from model.metrics.repetition import looping, repeating
from model.metrics.stuck import is_stuck


class Emotions(Protocol):
    """What gives emotion features and probabilities, as `model.scorer.scorer.EmotionScorer` does."""

    def features(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [n, width]."""
        ...

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, 28] in the order of GOEMOTIONS_LABELS."""
        ...


@dataclass(frozen=True)
class Likelihoods:
    """What a model finds likely, one entry an exchange, NaN where it was not asked: nats and tokens of the true reply;
    nats a token of a human reply labelled with another emotion, and of one with the same, both of other dialogues."""

    nats: np.ndarray
    tokens: np.ndarray
    opposed: np.ndarray
    same: np.ndarray

    @classmethod
    def none(cls, n: int) -> "Likelihoods":
        return cls(*(np.full(n, np.nan) for _ in range(4)))


@dataclass(frozen=True)
class Answers:
    """What a system answered, one entry a reply, and what its figures are measured with.

    emotions: labels of the references; f1: BERTScore of each; baseline: what its rescaling takes as zero, if known.
    """

    replies: Sequence[str]
    references: Sequence[str]
    datasets: Sequence[str]
    emotions: Sequence[str | None]
    first: Emotions
    second: Emotions
    f1: np.ndarray
    baseline: float | None = None
    likelihoods: Likelihoods = field(default_factory=lambda: Likelihoods.none(0))


@dataclass(frozen=True)
class Metric:
    """One figure of a system. key: its name in metrics.json, where KEY_ci is its 95 % interval.

    short: a column's head. source: where it comes from. of: one value a reply [n], NaN where it has none, or, of a
    metric of the whole corpus, counts [n, k] that are summed before `whole` makes the figure of them; of_texts: a
    figure of all replies together that does not add up, and so has no interval. low, high: what it can be.
    compared: whether it needs a reference: where that is blank, the reply is left out. scorer: the role of the weights
    that measure it, "" for none: figures of two scorers share no axis. paper: whether the paper's tables have it.
    steps, control: it stands in the table of what each rung adds, of EPO beside its control.
    """

    key: str
    title: str
    short: str
    source: str
    of: Callable[[Answers], np.ndarray] | None = None
    whole: Callable[[np.ndarray], float] | None = None
    of_texts: Callable[[Sequence[str]], float] | None = None
    better: Literal["higher", "lower", "neither"] = "higher"
    digits: int = 3
    low: float = 0.0
    high: float = 1.0
    compared: bool = True
    scorer: str = ""
    paper: bool = False
    steps: bool = False
    control: bool = False

    @property
    def per(self) -> str:
        """ "reply" or "corpus"."""
        return "corpus" if self.of is None or self.whole is not None else "reply"

    def measure(self, answers: Answers) -> np.ndarray:
        """float64 [n] or [n, k]; NaN where a reference that it needs is blank."""
        assert self.of is not None
        found = np.array(self.of(answers), dtype=np.float64)
        if self.compared and len(found):
            found[[not reference.strip() for reference in answers.references]] = np.nan
        return found

    def facts(self) -> dict:
        """What it is, for JSON."""
        names = ("key", "title", "short", "source", "better", "digits", "scorer", "paper", "steps", "control")
        return {**{name: getattr(self, name) for name in names}, "per": self.per}


def _scores(which: str) -> Callable[[Answers], np.ndarray]:
    def of(a: Answers) -> np.ndarray:
        return emotion_scores(a.replies, a.references, getattr(a, which))

    return of


def _contrasts(which: str) -> Callable[[Answers], np.ndarray]:
    def of(a: Answers) -> np.ndarray:
        known = [i for i, reference in enumerate(a.references) if reference.strip()]
        of_known = [[side[i] for i in known] for side in (a.replies, a.references, a.datasets)]
        found = np.full(len(a.replies), np.nan)
        found[known] = emotion_contrasts(*of_known, getattr(a, which))
        return found

    return of


def _rescaled(a: Answers) -> np.ndarray:
    if a.baseline is None:
        return np.full(len(a.f1), np.nan)
    return (a.f1 - a.baseline) / (1 - a.baseline)


def _preferred(a: Answers, other: str) -> np.ndarray:
    """1 where the true reply is likelier, a token, than the other; half where they are as likely."""
    true, than = a.likelihoods.nats / a.likelihoods.tokens, getattr(a.likelihoods, other)
    found = np.where(true < than, 1.0, np.where(true == than, 0.5, 0.0))
    found[np.isnan(true) | np.isnan(than)] = np.nan
    return found


def _perplexity(sums: np.ndarray) -> float:
    return math.exp(min(sums[0] / sums[1], 700.0)) if sums[1] else math.nan


SECOND = "second emotion scorer"
METRICS = (
    Metric(
        "bertscore", "BERTScore", "BERTScore", "F1 without rescaling or idf (Zhang et al. 2020)",
        lambda a: a.f1, low=-1.0, scorer="BERTScore", paper=True, steps=True, control=True,
    ),
    Metric(
        "emotionscore", "EmotionScore, the scorer that chose the pairs", "EmotionScore",
        "cosine of the emotion scorer's features of reply and true reply",
        _scores("first"), low=-1.0, scorer="emotion scorer", paper=True, control=True,
    ),
    Metric(
        "dist1", "Dist-1", "Dist-1", "different words among a reply's words, mean over replies",
        lambda a: dist_per_reply(a.replies), compared=False, paper=True,
    ),
    Metric(
        "emotionscore_second", "EmotionScore, second scorer", "EmotionScore, second scorer",
        "as EmotionScore, by a scorer that took no part in choosing pairs",
        _scores("second"), low=-1.0, scorer=SECOND, steps=True, control=True,
    ),
    Metric(
        "emotioncontrast", "Emotion contrast", "Emotion contrast",
        "EmotionScore less the mean over all other true replies of the dataset",
        _contrasts("first"), low=-2.0, high=2.0, scorer="emotion scorer",
    ),
    Metric(
        "emotioncontrast_second", "Emotion contrast, second scorer", "Emotion contrast, second scorer",
        "as emotion contrast, by the second scorer",
        _contrasts("second"), low=-2.0, high=2.0, scorer=SECOND, steps=True, control=True,
    ),
    Metric(
        "emotion_agreement", "Labelled emotion met", "Labelled emotion met",
        "share whose likeliest of six emotions, by the second scorer, is the true reply's label, mean over the labels that "
        "occur: one emotion said to everything has one in as many; neutral and unlabelled ones are left out",
        lambda a: agreement_counts(a.second.probabilities(a.replies), a.emotions), agreement, scorer=SECOND,
    ),
    Metric(
        "emotional_preference", "Emotional preference", "Emotional preference",
        "share of true replies that the model finds likelier, a token, than a human reply of another dialogue, as "
        "long, labelled with another emotion; chance is a half, and the true reply's topic helps as well",
        lambda a: _preferred(a, "opposed"),
    ),
    Metric(
        "same_emotion_preference", "The same, against the same emotion", "Preference, same emotion",
        "as emotional preference, against one labelled with the same emotion: what topic alone gives",
        lambda a: _preferred(a, "same"), better="neither",
    ),
    Metric(
        "preference_beyond_topic", "Emotional preference beyond topic", "Preference beyond topic",
        "emotional preference less the same against the same emotion, reply by reply: what topic does not give",
        lambda a: _preferred(a, "opposed") - _preferred(a, "same"), low=-1.0,
    ),
    Metric(
        "perplexity", "Next-reply perplexity", "Perplexity",
        "of the true replies' tokens, end of turn included: exp of nats over tokens",
        lambda a: np.stack([a.likelihoods.nats, a.likelihoods.tokens], 1), _perplexity,
        better="lower", digits=1, low=1.0, high=math.inf,
    ),
    Metric(
        "log_likelihood", "Log-likelihood of the true reply", "Log-likelihood",
        "nats a token, end of turn included, mean over replies; floors have none",
        lambda a: -a.likelihoods.nats / a.likelihoods.tokens, low=-math.inf, high=0.0, steps=True,
    ),
    Metric(
        "bertscore_rescaled", "BERTScore, rescaled", "BERTScore, rescaled",
        "F1 as bert-score rescales it, where it has a baseline for these weights and this layer",
        _rescaled, low=-math.inf, scorer="BERTScore",
    ),
    Metric(
        "bleu1", "BLEU-1", "BLEU-1", "of the corpus, as sacrebleu's (13a, exp)",
        lambda a: bleu_counts(a.replies, a.references), bleu(1),
    ),
    Metric(
        "bleu4", "BLEU-4", "BLEU-4", "of the corpus, as sacrebleu's (13a, exp)",
        lambda a: bleu_counts(a.replies, a.references), bleu(4),
    ),
    Metric("chrf", "chrF", "chrF", "chrF2 of a reply, as sacrebleu's, mean", lambda a: chrf(a.replies, a.references)),
    Metric(
        "exact", "Exact match", "Exact match", "share of replies that are the true one, letter by letter",
        lambda a: np.array([float(r.strip() == t.strip()) for r, t in zip(a.replies, a.references, strict=True)]),
    ),
    Metric(
        "dist2", "Dist-2", "Dist-2", "different pairs of words among a reply's, mean; one word alone has 0",
        lambda a: dist_per_reply(a.replies, 2), compared=False,
    ),
    Metric(
        "dist1_corpus", "Dist-1 of the corpus", "Dist-1 of the corpus", "over all replies together",
        of_texts=dist_corpus, compared=False,
    ),
    Metric(
        "dist2_corpus", "Dist-2 of the corpus", "Dist-2 of the corpus", "over all replies together",
        of_texts=lambda texts: dist_corpus(texts, 2), compared=False,
    ),
    Metric(
        "reply_words", "Words a reply", "Words a reply", "mean over replies",
        lambda a: np.array([float(len(words(reply))) for reply in a.replies]),
        better="neither", digits=1, high=math.inf, compared=False,
    ),
    Metric(
        "repeating", "Repeat themselves", "Repeat themselves", "share of replies in which three words in a row come back",
        lambda a: repeating(a.replies), better="lower", compared=False,
    ),
    Metric(
        "looping", "Loop", "Loop", "share of replies in which one to four words stand three times in a row",
        lambda a: looping(a.replies), better="lower", compared=False,
    ),
    Metric(
        "stuck", "Empty or looped", "Empty or looped",
        "share of replies without a word, or that go round in circles: what EPO ends at, above epo.max_stuck_share",
        lambda a: np.array([float(is_stuck(reply)) for reply in a.replies]), better="lower", compared=False,
    ),
)  # fmt: skip
