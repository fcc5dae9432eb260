"""Stage `scores`: how alike each candidate and the true reply are in emotion; and what human replies score.

Knows nothing of the scorer's insides or of which candidate is chosen.
"""

from __future__ import annotations

import random
from dataclasses import replace

from model.pairs.selection import equal_error_cosine
from model.pairs.settings import PairSettings
from model.scorer.settings import ScorerSettings
from storage.draws import draw_number
from storage.shards import candidate_to_row, read_table, row_to_candidate
from storage.store import Ref, canonical
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.shard_names import place, shard_name
from tasks.stages.shards import read_rows, row_key, write_shard
from tasks.stages.similarity import cosines


def score_candidates(
    candidates: Ref, exchanges: Ref, settings: ScorerSettings, scorer: Weights, work: Workspace
) -> list[Ref]:
    """Outputs: scores/…, each candidate with its cosine to the true reply (section 3.3)."""
    written = [row_to_candidate(row) for row in read_table(work.store.read(candidates), "candidates")]
    replies = {row_key(e): e["reply"] for e in read_rows(work.store, [exchanges], "exchanges")}
    said = [candidate for candidate in written if candidate.text]
    found = cosines([(one.text, replies[one.key]) for one in said], scorer.name, settings, work)
    scored = [replace(one, cosine=cosine) for one, cosine in zip(said, found, strict=True)]
    silent = [candidate for candidate in written if not candidate.text]
    rows = [candidate_to_row(candidate) for candidate in (*scored, *silent)]
    dataset, split = place(candidates)
    name = shard_name("scores", dataset, split, int(candidates.name.split("/")[-1]))
    return [write_shard(work.store, "scores", name, rows)]


def calibrate_scores(
    utterances: list[Ref], pairs: PairSettings, settings: ScorerSettings, scorer: Weights, work: Workspace
) -> list[Ref]:
    """Cosines of human utterances of the same and of different emotions; output: calibration.json.

    Of MELD's train split alone where there is one, so that the threshold found here does not move with which other datasets
    are read; else of every train split.
    """
    rows = read_rows(work.store, utterances, "utterances", "train")
    meld = [row for row in rows if row["dataset"] == "meld"]
    same, different = human_pairs(meld or rows, pairs.calibration_pairs, pairs.seed)
    found = [
        [round(c, 6) for c in sorted(cosines(drawn, scorer.name, settings, work))]
        for drawn in (same, different)
    ]
    facts = {
        "pairs": len(same),
        "datasets": sorted({row["dataset"] for row in meld or rows}),
        "same": found[0],
        "different": found[1],
        "equal_error": equal_error_cosine(*found) if same else None,
    }
    return [work.store.put_bytes("calibration.json", canonical(facts))]


def human_pairs(
    rows: list[dict], count: int, seed: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Up to `count` pairs of utterances of the same emotion, and as many of different emotions."""
    labelled = [(row["text"], row["emotion"]) for row in rows if row["emotion"] is not None]
    draw = random.Random(draw_number(seed, "scores.calibration"))
    same: list[tuple[str, str]] = []
    different: list[tuple[str, str]] = []
    for _ in range(count * 40):
        if len(labelled) < 2 or min(len(same), len(different)) >= count:
            break
        (first, one), (second, other) = draw.sample(labelled, 2)
        kind = same if one == other else different
        if len(kind) < count and first != second:
            kind.append((first, second))
    least = min(len(same), len(different))
    return same[:least], different[:least]
