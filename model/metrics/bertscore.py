"""BERTScore by the package bert-score 0.3.13, made right under transformers 5.

Knows nothing of systems or datasets. transformers 5 ignores `add_prefix_space` at call time, which silently shifts
every RoBERTa score, and dropped the method that bert-score uses for empty texts. Only the package's function that
turns a text into token ids is replaced, and only while scores are computed; matching stays upstream's, since small
differences there would make numbers incomparable. It computes in float32 on the GPU where there is one, whatever a profile's dtype, for the same reason.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model.device import best_device

LONGEST = 512


class BertScores(NamedTuple):
    """Precision, recall and F1, float64 [n] each."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


PAIRS = 4096
"""Pairs a call of upstream, which keeps the states of all their texts until it is done."""


def bert_score(
    candidates: Sequence[str],
    references: Sequence[str],
    folder: Path,
    num_layers: int,
    batch_size: int = 64,
) -> BertScores:
    """BERTScore of each candidate against its reference (Zhang et al. 2020), not rescaled, without idf.

    `folder` is a resolved encoder, `num_layers` the layer whose states are compared. Equal pairs are scored once. A
    pair with an empty or blank text scores 0. ValueError when the numbers of texts differ.
    """
    if len(candidates) != len(references):
        raise ValueError(
            f"bert_score: {len(candidates)} candidates but {len(references)} references; pair them up"
        )
    if not candidates:
        return BertScores(*(np.empty(0) for _ in range(3)))
    from bert_score import BERTScorer

    scorer = BERTScorer(model_type=str(folder), num_layers=num_layers, device=str(best_device()), idf=False)
    pairs = list(zip(references, candidates, strict=True))
    distinct = sorted(set(pairs))  # by reference, so that what systems share is in one call
    found: dict[tuple[str, str], list[float]] = {}
    # Upstream announces empty texts on standard error; that they score 0 is said above.
    with _transformers_5_encoding(), contextlib.redirect_stderr(io.StringIO()):
        for start in range(0, len(distinct), PAIRS):
            part = distinct[start : start + PAIRS]
            true, said = (list(side) for side in zip(*part, strict=True))
            scores = _by_pair(scorer.score(said, true, batch_size=batch_size))
            found.update(zip(part, scores, strict=True))
    return BertScores(*np.array([found[pair] for pair in pairs]).T)


def _by_pair(parts) -> list[list[float]]:
    """Precision, recall and F1 of each pair."""
    return [list(row) for row in zip(*(part.double().tolist() for part in parts), strict=True)]


def baseline(name: str, num_layers: int) -> float | None:
    """What rescaling takes as zero of F1, as bert-score ships it for English; None where it has none.

    name: of the weights, as their publisher calls them.
    """
    import bert_score

    table = Path(bert_score.__file__).parent / "rescale_baseline" / "en" / f"{name}.tsv"
    if not table.resolve().is_relative_to(table.parents[1].resolve()) or not table.is_file():
        return None
    rows = [line.split(",") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    return next((float(row[3]) for row in rows if int(row[0]) == num_layers), None)


def signature(name: str, num_layers: int) -> str:
    """What bert-score calls its hash: weights, layer, idf and versions, which must stand beside a score."""
    from importlib.metadata import version

    return f"{name}_L{num_layers}_no-idf_version={version('bert-score')}(hug_trans={version('transformers')})"


@contextmanager
def _transformers_5_encoding() -> Iterator[None]:
    """Let bert-score use `encode_sentence` inside the block."""
    import bert_score.utils as upstream

    original = upstream.sent_encode
    upstream.sent_encode = encode_sentence
    try:
        yield
    finally:
        upstream.sent_encode = original


def encode_sentence(tokenizer, sentence: str) -> list[int]:
    """Token ids with special tokens, cut at 512; byte-level tokenizers read the text as after a space."""
    from transformers import GPT2Tokenizer, RobertaTokenizer

    sentence = sentence.strip()
    if sentence and isinstance(tokenizer, (GPT2Tokenizer, RobertaTokenizer)):
        sentence = " " + sentence
    longest = min(tokenizer.model_max_length, LONGEST)
    return tokenizer(sentence, truncation=True, max_length=longest)["input_ids"]
