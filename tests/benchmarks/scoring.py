"""Texts a second of the emotion scorer beside transformers' text-classification pipeline. `make bench NAME=scoring`.

The same encoder (MiniLM) in float32 with one thread and 28 labels on top, the same texts in one list: MELD's where it
lies beside the repository, else the sample's. They are distinct, so what the scorer saves by computing each text once
does not count. With --goemotions FILE.tsv also the F1 figures of both shipped scorers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from generation import SENTENCES
from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

from model.scorer.labels import GOEMOTIONS_LABELS
from model.scorer.scorer import EmotionScorer
from model.zoo.resolve import resolve
from tasks.scorer import measure_scorer

REPEATS = 3
PIPELINE_BATCH = 32


def least_seconds(work, texts: list[str]) -> tuple[float, float]:
    """(seconds, CPU seconds), each the least of REPEATS runs."""
    work(texts[:64])
    found = []
    for _ in range(REPEATS):
        started = time.monotonic(), time.process_time()
        work(texts)
        found.append((time.monotonic() - started[0], time.process_time() - started[1]))
    return tuple(map(min, zip(*found, strict=True)))


def classifier(folder: Path):
    """The pipeline on MiniLM with an untrained label layer: as fast as a trained one."""
    base = resolve("minilm-l6")
    BertForSequenceClassification.from_pretrained(base, num_labels=len(GOEMOTIONS_LABELS)).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return pipeline(
        "text-classification", str(folder), batch_size=PIPELINE_BATCH, top_k=None,
        function_to_apply="sigmoid", device="cpu",
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--goemotions", type=Path, help="a GoEmotions-format file to measure both scorers on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = SENTENCES[: arguments.texts]
    scorer = EmotionScorer.load("goemotions-minilm")
    with tempfile.TemporaryDirectory() as folder:
        peer = least_seconds(classifier(Path(folder)), texts)
    ours = least_seconds(scorer.features, texts)
    figures = {
        "name": "scoring",
        "ratio": round(peer[0] / ours[0], 2),
        "cpu_ratio": round(peer[1] / ours[1], 2),
        "texts": len(texts),
        "texts_per_s": round(len(texts) / ours[0], 1),
        "pipeline_texts_per_s": round(len(texts) / peer[0], 1),
    }
    if arguments.goemotions:
        for name in ("goemotions-minilm", "goemotions-minilm-b"):
            figures[name] = measure_scorer(arguments.goemotions, name)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
