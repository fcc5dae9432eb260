"""Train the GoEmotions part of the emotion scorer (`empamba scorer train`) and measure one (`scorer evaluate`).

Knows nothing of candidates, stages or stores. First the encoder is frozen, so its pooled layers are computed once
for each text and the head is trained on them; then, where the settings give a rank, head and low-rank adapter go on
together. The epoch that does best on the validation file is kept; the thresholds come from the training file.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from model.batches import length_sorted_batches
from model.pretrained import from_folder
from model.scorer.batches import pad_rows, shuffled_batches
from model.scorer.labels import GOEMOTIONS_LABELS
from model.scorer.network import (
    MODEL_TYPE,
    EmotionHead,
    EmotionNetwork,
    load_encoder,
    load_network,
    token_rows,
)
from model.scorer.scorer import EmotionScorer
from model.scorer.settings import AdapterTrainingSettings, HeadTrainingSettings
from model.zoo.errors import ZooError
from model.zoo.resolve import identity, resolve

THRESHOLDS = np.arange(0.02, 0.9, 0.02)
FORWARD_BATCH = 64
WARM_UP = 0.1


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and their labels, bool [n, 28]."""

    texts: list[str]
    labels: np.ndarray

    def first(self, count: int | None) -> LabelledTexts:
        """The first `count` of them; all for None."""
        return LabelledTexts(self.texts[:count], self.labels[:count])


def read_goemotions(path: Path, part: str = "all") -> LabelledTexts:
    """Texts and labels of a GoEmotions TSV: text, label ids with commas, comment id; CSV quoting, no header.

    `part` keeps all rows, or those at even or odd positions. ValueError names the line that does not fit.
    """
    texts, labels = [], []
    with open(path, encoding="utf-8", newline="") as lines:
        for number, row in enumerate(_rows(lines, path), start=1):
            if len(row) != 3:
                raise ValueError(
                    f"{path}, row {number}: {len(row)} fields instead of 3; give the GoEmotions TSV"
                )
            if "\n" in row[0]:
                raise ValueError(
                    f"{path}, row {number}: a quotation mark opens a text and is not closed in its line"
                )
            if (part == "even" and number % 2) or (part == "odd" and number % 2 == 0):
                continue
            texts.append(row[0])
            labels.append(_label_row(row[1], f"{path}, row {number}"))
    if not texts:
        raise ValueError(f"{path}: no rows; give the GoEmotions TSV")
    return LabelledTexts(texts, np.array(labels))


def _rows(lines: Iterable[str], path: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines, delimiter="\t")
    except csv.Error as error:
        raise ValueError(
            f"{path}: {error}: a quotation mark may be left open; give the GoEmotions TSV"
        ) from None


def _label_row(ids: str, where: str) -> np.ndarray:
    row = np.zeros(len(GOEMOTIONS_LABELS), dtype=bool)
    for part in ids.split(","):
        if not part.isdigit() or int(part) >= len(row):
            raise ValueError(f"{where}: label id {part!r}; ids are 0 to {len(row) - 1}")
        row[int(part)] = True
    return row


def train_goemotions_head(
    train_tsv: Path, dev_tsv: Path, out: Path, settings: HeadTrainingSettings | None = None
) -> dict[str, float]:
    """Train on `train_tsv`, choose the epoch on `dev_tsv`, write `out`; returns the dev figures.

    `out` gets model.safetensors (float16, what was trained only) and config.json. Progress goes to standard output, one
    line an epoch. The caller's random state is left as it was.
    """
    settings = settings or HeadTrainingSettings()
    if settings.start and not settings.network.rank:
        raise ValueError(
            "start gives the head, and without network.rank there is no adapter: nothing to train"
        )
    train, dev = read_goemotions(train_tsv, settings.part), read_goemotions(dev_tsv)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = EmotionNetwork(
            load_encoder(settings.network.base, max(settings.network.layers)),
            settings.network,
            settings.dropout,
            settings.adapter.dropout,
        )
        if settings.start:
            start_from(network, load_network(_scorer_to_start_from(settings.start)))
        else:
            with _precision(settings):
                pooled = _pooled(network, settings, train, dev)
            fit_head(network.head, *pooled, settings)
        if settings.network.rank:
            fit_adapter(network, train, dev, settings)
        (tuned, tuned_labels), held = _pooled(network, settings, train.first(settings.tuning_rows), dev)
        center_hidden(network.head, tuned)
    thresholds = tune_thresholds(probabilities(network.head, tuned), tuned_labels)
    figures = f1_figures(probabilities(network.head, held[0]) >= thresholds, held[1])
    _write(out, network, thresholds, figures, settings)
    return figures


def _scorer_to_start_from(name: str) -> Path:
    """Its folder. ValueError: a description may call by name a scorer that was not kept."""
    try:
        return resolve(name)
    except ZooError:
        raise ValueError(
            f"start {name!r}: no such scorer; train one with the same settings but for start and network.rank, and "
            "give its folder"
        ) from None


def start_from(network: EmotionNetwork, other: EmotionNetwork) -> None:
    """Take the head of `other`; ValueError where its shape is another, or its encoder is not the plain one."""
    if other.settings.rank:
        raise ValueError(
            "the scorer to start from adapts its encoder: its head is of no use on the plain one"
        )
    shape = {"base", "layers", "pooling", "hidden"}
    if network.settings.model_dump(include=shape) != other.settings.model_dump(include=shape):
        raise ValueError(
            "the scorer to start from has another encoder, layers, pooling or width: set them alike"
        )
    network.head.load_state_dict(other.head.state_dict())


def _pooled(network: EmotionNetwork, settings: HeadTrainingSettings, *parts: LabelledTexts):
    """(pooled layers, labels) of each part."""
    return [(pooled_layers(network, part.texts, settings.max_tokens), part.labels) for part in parts]


def _precision(settings: HeadTrainingSettings) -> torch.autocast:
    """Where the encoder's products are computed in `settings.dtype`; weights stay float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=settings.dtype == "bfloat16")


def evaluate_scorer(scorer: EmotionScorer, tsv: Path) -> dict[str, float]:
    """Macro- and micro-F1 of a scorer, with its own thresholds, on a GoEmotions-format file; and its rows."""
    read = read_goemotions(tsv)
    predicted = scorer.probabilities(read.texts) >= scorer.thresholds
    return {"rows": len(read.texts), **f1_figures(predicted, read.labels)}


def pooled_layers(network: EmotionNetwork, texts: list[str], max_tokens: int) -> Tensor:
    """Pooled layers of every text, float16 [n, inputs]: half the memory, and more digits than training needs."""
    rows, pad_id = _tokens(network, texts, max_tokens)
    network.eval()
    pooled = torch.empty(len(rows), network.head.dense.in_features, dtype=torch.float16)
    with torch.inference_mode():
        for indices in length_sorted_batches([len(row) for row in rows], FORWARD_BATCH, longest_first=True):
            pooled[indices] = network.pooled(*pad_rows([rows[index] for index in indices], pad_id)).half()
    return pooled


def _tokens(network: EmotionNetwork, texts: list[str], max_tokens: int) -> tuple[list[list[int]], int]:
    """Token ids of every text, and the id that pads them."""
    from transformers import AutoTokenizer

    tokenizer = from_folder(AutoTokenizer, resolve(network.settings.base))
    return token_rows(tokenizer, texts, max_tokens, network.started), tokenizer.pad_token_id


def fit_head(
    head: EmotionHead,
    train: tuple[Tensor, np.ndarray],
    dev: tuple[Tensor, np.ndarray],
    settings: HeadTrainingSettings,
) -> EmotionHead:
    """Train `head` on (pooled float16 [n, inputs], labels bool [n, 28]); keep the epoch that is best on `dev`.

    The measure is mean average precision. Uses torch's random state.
    """
    pooled, labels = train[0], torch.from_numpy(train[1]).float()
    head.standardise_by(pooled.float())
    task = _Task(
        labels,
        batches=lambda: torch.randperm(len(pooled)).split(settings.batch_size),
        logits=lambda indices: head(pooled[indices].float()),
        precision=lambda: mean_average_precision(probabilities(head, dev[0]), dev[1]),
    )
    _fit_epochs(head, task, settings, settings, "epoch")
    return head


def fit_adapter(
    network: EmotionNetwork, train: LabelledTexts, dev: LabelledTexts, settings: HeadTrainingSettings
) -> None:
    """Train the adapter and the head together from where they stand; keep the epoch best on `dev`.

    The loss and the measure are `fit_head`'s. Uses torch's random state.
    """
    rows, pad_id = _tokens(network, train.texts, settings.max_tokens)

    def logits(indices: list[int]) -> Tensor:
        with _precision(settings):
            pooled = network.pooled(*pad_rows([rows[index] for index in indices], pad_id))
        return network.head(pooled.float())

    def precision() -> float:
        with _precision(settings):
            held = pooled_layers(network, dev.texts, settings.max_tokens)
        return mean_average_precision(probabilities(network.head, held), dev.labels)

    task = _Task(
        torch.from_numpy(train.labels).float(),
        batches=lambda: shuffled_batches([len(row) for row in rows], settings.adapter.batch_size),
        logits=logits,
        precision=precision,
    )
    _fit_epochs(network, task, settings.adapter, settings, "adapter, epoch")
    network.eval()


@dataclass(frozen=True)
class _Task:
    """What the head and the adapter differ in.

    labels: fp32 [n, 28]. batches() -> the indices of each step of an epoch, drawn anew. logits(indices) -> fp32
    [len(indices), 28]. precision() -> mean average precision on dev.
    """

    labels: Tensor
    batches: Callable[[], Iterable[Sequence[int] | Tensor]]
    logits: Callable[[Sequence[int] | Tensor], Tensor]
    precision: Callable[[], float]


def _fit_epochs(
    module: nn.Module,
    task: _Task,
    steps_of: HeadTrainingSettings | AdapterTrainingSettings,
    settings: HeadTrainingSettings,
    line: str,
) -> None:
    """Train what requires gradients in `module`, and leave it as it was after the epoch that is best on dev.

    steps_of: whose epochs, batch size and learning rate hold; line: how a line of progress begins.

    Binary cross-entropy, AdamW, one-cycle rate. `model.training.fit` is not used: its batches, warm-up and cosine,
    gradient clip and choice by loss would give the shipped scorers other weights, and their published figures,
    thresholds and calibration would have to be made again.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(
        trained.values(), lr=steps_of.learning_rate, weight_decay=settings.weight_decay
    )
    steps = steps_of.epochs * -(-len(task.labels) // steps_of.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, steps_of.learning_rate, total_steps=steps, pct_start=WARM_UP
    )
    weight = torch.full((task.labels.shape[1],), settings.positive_weight)
    best, kept = -1.0, {}
    for epoch in range(steps_of.epochs):
        module.train()
        for indices in task.batches():
            loss = functional.binary_cross_entropy_with_logits(
                task.logits(indices), task.labels[indices], pos_weight=weight
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        precision = task.precision()
        print(f"{line} {epoch + 1}: dev mean average precision {precision:.4f}", flush=True)
        if precision > best:
            best, kept = precision, {name: p.detach().clone() for name, p in trained.items()}
    module.load_state_dict(kept, strict=False)


def center_hidden(head: EmotionHead, pooled: Tensor) -> None:
    """Set the mean hidden state of these pooled layers float16 [n, inputs], which features are taken from."""
    head.eval()
    with torch.inference_mode():
        hidden = torch.cat([head.hidden_states(part.float()) for part in pooled.split(4096)])
        mean = hidden.mean(0)
    head.hidden_center.copy_(mean)


def probabilities(head: EmotionHead, pooled: Tensor) -> np.ndarray:
    """Label probabilities float32 [n, 28] of pooled layers float16 [n, inputs]; leaves `head` in evaluation mode."""
    head.eval()
    with torch.inference_mode():
        return torch.cat([head(part.float()).sigmoid() for part in pooled.split(4096)]).numpy()


def tune_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each label the threshold (steps of 0.02, the lowest of equals) with the best F1 on these rows."""
    scores = np.stack([_f1_by_label(probabilities >= threshold, labels) for threshold in THRESHOLDS])
    return THRESHOLDS[scores.argmax(0)].round(2)


def f1_figures(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Macro- and micro-F1 over the 28 labels; a label never present nor predicted counts as 0."""
    hits, wrong, missed = (
        int((predicted & labels).sum()),
        int((predicted & ~labels).sum()),
        int((~predicted & labels).sum()),
    )
    return {
        "macro_f1": round(float(_f1_by_label(predicted, labels).mean()), 4),
        "micro_f1": round(2 * hits / max(2 * hits + wrong + missed, 1), 4),
    }


def _f1_by_label(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    hits = (predicted & labels).sum(0)
    return 2 * hits / np.maximum(predicted.sum(0) + labels.sum(0), 1)


def mean_average_precision(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over labels of the area under precision and recall, a measure that needs no threshold.

    Labels absent from `labels` are left out; equal probabilities are ordered by row.
    """
    precisions = []
    for column in range(labels.shape[1]):
        present = labels[:, column][np.argsort(-probabilities[:, column], kind="stable")]
        if present.any():
            ranks = np.flatnonzero(present) + 1
            precisions.append((np.arange(1, len(ranks) + 1) / ranks).mean())
    return float(np.mean(precisions))


def _write(
    out: Path,
    network: EmotionNetwork,
    thresholds: np.ndarray,
    figures: dict[str, float],
    settings: HeadTrainingSettings,
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in sorted(network.trained_state().items())}
    described = {
        "model_type": MODEL_TYPE,
        "base_identity": identity(settings.network.base),
        "network": settings.network.model_dump(mode="json"),
        "training": settings.model_dump(mode="json", exclude={"network"}),
        "labels": GOEMOTIONS_LABELS,
        "thresholds": thresholds.tolist(),
        "dev": figures,
    }
    # The description is renamed last: a folder without it does not load.
    save_file(state, out / "model.tmp", metadata={"format": "pt"})
    os.replace(out / "model.tmp", out / "model.safetensors")
    (out / "config.tmp").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    os.replace(out / "config.tmp", out / "config.json")
