"""BERTScore by the package bert-score 0.3.13, made right under transformers 5.

Knows nothing of systems or datasets. transformers 5 ignores `add_prefix_space` at call time, which silently shifts
every RoBERTa score, and dropped the method that bert-score uses for empty texts. Only the package's function that
turns a text into token ids is replaced, and only while scores are computed; matching stays upstream's, since small
differences there would make numbers incomparable.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

LONGEST = 512


class BertScores(NamedTuple):
    """Precision, recall and F1, float64 [n] each."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


def bert_score(
    candidates: Sequence[str],
    references: Sequence[str],
    folder: Path,
    num_layers: int,
    batch_size: int = 64,
) -> BertScores:
    """BERTScore of each candidate against its reference (Zhang et al. 2020), not rescaled, without idf.

    `folder` is a resolved encoder, `num_layers` the layer whose states are compared. A pair with an empty or blank
    text scores 0. ValueError when the numbers of texts differ.
    """
    if len(candidates) != len(references):
        raise ValueError(
            f"bert_score: {len(candidates)} candidates but {len(references)} references; pair them up"
        )
    if not candidates:
        return BertScores(*(np.empty(0) for _ in range(3)))
    from bert_score import BERTScorer

    scorer = BERTScorer(model_type=str(folder), num_layers=num_layers, device=_device(), idf=False)
    # Upstream announces empty texts on standard error; that they score 0 is said above.
    with _transformers_5_encoding(), contextlib.redirect_stderr(io.StringIO()):
        scores = scorer.score(list(candidates), list(references), batch_size=batch_size)
    return BertScores(*(part.double().numpy() for part in scores))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


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
