"""Emotional similarity of texts, as stages compute it: one scorer a process, and what was scored before is read back.

Knows nothing of candidates, pairs, or of what a similarity decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from model.scorer.scorer import EmotionScorer
from model.scorer.settings import ScorerSettings
from tasks.engine.item import Workspace


def cosines(
    pairs: Sequence[tuple[str, str]], scorer: str, settings: ScorerSettings, work: Workspace
) -> list[float]:
    """Cosines of text pairs; those of an earlier run are read back."""
    memo = work.store.rows("scores")
    keys = [work.row_key(*pair) for pair in pairs]
    known = {key: float(value) for key, value in memo.get_many(keys).items()}
    missing = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}

    def on_progress(done: int, texts: int) -> None:
        """Distinct texts, some of which several pairs share, as pairs."""
        work.progress(len(pairs) - len(missing) + len(missing) * done // texts, len(pairs), {})

    if missing:
        on_progress(0, 1)
        model = _scorer(scorer, settings)
        # In one call, which runs each distinct text once.
        texts = [text for pair in missing.values() for text in pair]
        features = model.features(texts, on_progress)
        for key, cosine in zip(missing, np.sum(features[0::2] * features[1::2], axis=1), strict=True):
            known[key] = float(cosine)
            memo.put(key, repr(known[key]).encode())
    memo.close()
    return [known[key] for key in keys]


@cache
def _scorer(name: str, settings: ScorerSettings) -> EmotionScorer:
    return EmotionScorer.load(name, settings)
