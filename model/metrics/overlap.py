"""BLEU (Papineni et al. 2002) and chrF (Popović 2015), with the tokens, smoothing and averages of sacrebleu 2.

Computed here from counts of each text, which add up over a corpus: so a resample of dialogues has a BLEU of its own.
Tests hold both to sacrebleu's own figures. Knows nothing of systems or datasets.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

ORDERS = 4
CHARACTERS, BETA = 6, 2.0
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_SYMBOL = re.compile(r"([{-~\[-` -&(-+:-@/])")
_MARKS = (
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # a point or comma, unless both its sides are digits
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def tokens_13a(text: str) -> list[str]:
    """Tokens as the evaluation script mteval-v13a cuts them; letters keep their case."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = _SYMBOL.sub(r" \1 ", f" {text} ")
    for mark, apart in _MARKS:
        text = mark.sub(apart, text)
    return text.split()


def bleu_counts(replies: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Of each pair, float64 [n, 10]: n-grams right and n-grams said, of orders 1 to 4, words said and words true."""
    found = np.zeros((len(replies), 2 * ORDERS + 2))
    for row, (reply, reference) in enumerate(zip(replies, references, strict=True)):
        said, true = tokens_13a(reply), tokens_13a(reference)
        for order in range(1, ORDERS + 1):
            ours, theirs = _grams(said, order), _grams(true, order)
            found[row, order - 1] = (ours & theirs).total()
            found[row, ORDERS + order - 1] = ours.total()
        found[row, -2:] = len(said), len(true)
    return found


def bleu(order: int) -> Callable[[np.ndarray], float]:
    """BLEU of n-grams up to `order`, 0 to 1, of counts [10] that are summed over a corpus.

    An order with nothing right counts as half, then a quarter … of one (Chen and Cherry 2014, smoothing 3); nothing
    right at all is 0.
    """

    def score(counts: np.ndarray) -> float:
        right, made = counts[:order], counts[ORDERS : ORDERS + order]
        said, true = counts[-2:]
        if not right.any() or not made.all():
            return 0.0
        missed, logs = 1.0, 0.0
        for hits, total in zip(right, made, strict=True):
            if not hits:
                missed *= 2
            logs += math.log(hits / total if hits else 1 / (missed * total))
        brevity = 1.0 if said >= true else math.exp(1 - true / said)
        return brevity * math.exp(logs / order)

    return score


def chrf(replies: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """chrF2 of each reply, 0 to 1, float64 [n]: F of character n-grams up to 6, recall weighing twice; no spaces."""
    return np.array([_chrf(reply, reference) for reply, reference in zip(replies, references, strict=True)])


def _chrf(reply: str, reference: str) -> float:
    said, true = ("".join(text.split()) for text in (reply, reference))
    precisions, recalls = [], []
    for order in range(1, CHARACTERS + 1):
        ours, theirs = _grams(said, order), _grams(true, order)
        if ours and theirs:
            right = (ours & theirs).total()
            precisions.append(right / ours.total())
            recalls.append(right / theirs.total())
    if not any(precisions):
        return 0.0
    precision, recall = (sum(part) / len(part) for part in (precisions, recalls))
    return (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def _grams(items: Sequence[str], order: int) -> Counter:
    return Counter(tuple(items[at : at + order]) for at in range(len(items) - order + 1))
