"""Texts a second of the emotion scorer beside transformers' text-classification pipeline. `make bench NAME=scoring`.

The same encoder (MiniLM) in float32 with one thread and 28 labels on top, the same texts in one list: MELD's where it
lies beside the repository, else the sample's. They are distinct, so what the scorer saves by computing each text once
does not count. With --goemotions FILE.tsv also the F1 figures of the scorers named (both shipped ones), and with --meld
FILE.csv how well their cosine, and plain MiniLM's, tells utterances of one emotion from those of two.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from generation import SENTENCES
from sklearn.metrics import roc_auc_score
from transformers import AutoTokenizer, BertForSequenceClassification, pipeline

from model.scorer.labels import GOEMOTIONS_LABELS
from model.scorer.network import EmotionNetwork, load_encoder
from model.scorer.scorer import EmotionScorer
from model.scorer.settings import EmotionNetworkSettings
from model.scorer.train import pooled_layers
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


def emotion_areas(file: Path, names: list[str]) -> dict[str, dict[str, float]]:
    """For each scorer and for plain MiniLM (the mean of its last layer, as it is meant to be used) the area under the
    ROC curve of the cosine, same emotion against different ones: all pairs of utterances, and of those not neutral."""
    with open(file, encoding="utf-8", newline="") as lines:
        rows = [(row["Utterance"], row["Emotion"]) for row in csv.DictReader(lines)]
    texts, emotions = [text for text, _ in rows], np.array([emotion for _, emotion in rows])
    plain = EmotionNetwork(load_encoder("minilm-l6"), EmotionNetworkSettings(layers=(6,)))
    features = {"plain MiniLM": pooled_layers(plain, texts, max_tokens=128).float().numpy()}
    features |= {name: EmotionScorer.load(name).features(texts) for name in names}
    found: dict[str, dict[str, float]] = {name: {} for name in features}
    for what, inside in (("all", emotions != ""), ("without_neutral", emotions != "neutral")):
        one, other = np.triu_indices(inside.sum(), k=1)
        same = emotions[inside][one] == emotions[inside][other]
        for name, rows in features.items():
            units = rows[inside] / np.linalg.norm(rows[inside], axis=1, keepdims=True)
            found[name][what] = round(float(roc_auc_score(same, (units @ units.T)[one, other])), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=4096)
    parser.add_argument("--goemotions", type=Path, help="a GoEmotions-format file to measure scorers on")
    parser.add_argument("--meld", type=Path, help="a CSV of MELD to measure scorers on")
    parser.add_argument("--scorers", nargs="+", default=["goemotions-minilm", "goemotions-minilm-b"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = SENTENCES[: arguments.texts]
    scorer = EmotionScorer.load(arguments.scorers[0])
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
        figures["f1"] = {name: measure_scorer(arguments.goemotions, name) for name in arguments.scorers}
    if arguments.meld:
        figures["meld_areas"] = emotion_areas(arguments.meld, arguments.scorers)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
