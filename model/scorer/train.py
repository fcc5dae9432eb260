"""Train the GoEmotions part of the emotion scorer: `python -m model.scorer.train TRAIN.tsv DEV.tsv OUT`.

Knows nothing of candidates, stages or stores. The states of the untouched lower layers are computed once. The head
is trained on them first, then head and low-rank updates together; the epoch that does best on the validation file
is kept, and the thresholds come from the training file.
"""

import argparse
import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from model.scorer.batches import length_sorted_batches, pad_rows
from model.scorer.labels import GOEMOTIONS_LABELS
from model.scorer.network import MODEL_TYPE, EmotionNetwork, load_encoder
from model.scorer.settings import EmotionNetworkSettings, HeadTrainingSettings
from model.zoo.resolve import identity, resolve

THRESHOLDS = np.arange(0.02, 0.9, 0.02)
FORWARD_BATCH = 64
WARM_UP = 0.1


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and their labels, bool [n, 28]."""

    texts: list[str]
    labels: np.ndarray


@dataclass(frozen=True)
class TokenStates:
    """States of the lower layers, float16 [tokens, width] of all texts in a row, and where each text starts."""

    states: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def lengths(self) -> list[int]:
        return np.diff(self.starts).tolist()

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Padded states float32 [B, L, width] and mask bool [B, L]."""
        rows = [torch.from_numpy(self.states[self.starts[i] : self.starts[i + 1]]) for i in indices]
        mask = torch.arange(max(map(len, rows))) < torch.tensor([len(row) for row in rows])[:, None]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True).float(), mask


def read_goemotions(path: Path, part: str = "all") -> LabelledTexts:
    """Texts and labels of a GoEmotions TSV: text, label ids with commas, comment id; CSV quoting, no header.

    `part` keeps all rows, or those at even or odd positions. ValueError names the line that does not fit.
    """
    texts, labels = [], []
    with open(path, encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.reader(lines, delimiter="\t"), start=1):
            if len(row) != 3:
                raise ValueError(
                    f"{path}, row {number}: {len(row)} fields instead of 3; give the GoEmotions TSV"
                )
            if (part == "even" and number % 2) or (part == "odd" and number % 2 == 0):
                continue
            texts.append(row[0])
            labels.append(_label_row(row[1], f"{path}, row {number}"))
    if not texts:
        raise ValueError(f"{path}: no rows; give the GoEmotions TSV")
    return LabelledTexts(texts, np.array(labels))


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

    `out` gets model.safetensors (float16, the trained part only) and config.json. Progress goes to standard
    output, one line an epoch.
    """
    settings = settings or HeadTrainingSettings()
    train, dev = read_goemotions(train_tsv, settings.part), read_goemotions(dev_tsv)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = EmotionNetwork(load_encoder(settings.network.base), settings.network, settings.dropout)
        trainer = _Trainer(network, train, dev, settings)
        trainer.train_head()
        if settings.lora_epochs and settings.network.lora_rank:
            trainer.train_all()
        thresholds = tune_thresholds(trainer.probabilities(trainer.train_states), train.labels)
        figures = f1_figures(trainer.probabilities(trainer.dev_states) >= thresholds, dev.labels)
    _write(out, network, thresholds, figures, settings)
    return figures


class _Trainer:
    """Both phases over one set of lower-layer states."""

    def __init__(
        self,
        network: EmotionNetwork,
        train: LabelledTexts,
        dev: LabelledTexts,
        settings: HeadTrainingSettings,
    ) -> None:
        self.network, self.settings = network, settings
        self.labels = torch.from_numpy(train.labels).float()
        self.dev_labels = dev.labels
        self.train_states = compute_token_states(network, train.texts)
        self.dev_states = compute_token_states(network, dev.texts)
        self.best: tuple[float, dict[str, Tensor]] = (-1.0, {})

    def train_head(self) -> None:
        """The head alone, on the views of the encoder as it came."""
        views = self.all_views(self.train_states)
        dev_views = self.all_views(self.dev_states)
        head, settings = self.network.head, self.settings
        head.standardise_by(views)
        batches = -(-len(views) // settings.head_batch)
        optimiser, schedule = self._optimiser(settings.head_rate, settings.head_epochs * batches)
        for epoch in range(settings.head_epochs):
            head.train()
            for indices in torch.randperm(len(views)).split(settings.head_batch):
                self._step(head(views[indices]), indices, optimiser, schedule)
            head.eval()
            with torch.inference_mode():
                probabilities = head(dev_views).sigmoid().numpy()
            self._keep_if_best(f"head {epoch + 1}", probabilities)
        self.network.load_trained_state(self.best[1])

    def train_all(self) -> None:
        """Head and low-rank updates, on batches of similar length in random order."""
        settings = self.settings
        batches = -(-len(self.train_states) // settings.lora_batch)
        optimiser, schedule = self._optimiser(settings.lora_rate, settings.lora_epochs * batches)
        for epoch in range(settings.lora_epochs):
            self.network.head.train()
            for indices in self._shuffled_batches(settings.lora_batch):
                states, mask = self.train_states.batch(indices)
                logits = self.network.head(self.network.views(states, mask))
                self._step(logits, torch.tensor(indices), optimiser, schedule)
            self._keep_if_best(f"all {epoch + 1}", self.probabilities(self.dev_states))
        self.network.load_trained_state(self.best[1])

    def all_views(self, states: TokenStates) -> Tensor:
        """Views float [n, inputs] of every text, in order."""
        views = torch.empty(len(states), self.network.head.dense.in_features)
        with torch.inference_mode():
            for indices in length_sorted_batches(states.lengths(), FORWARD_BATCH):
                views[indices] = self.network.views(*states.batch(indices))
        return views

    def probabilities(self, states: TokenStates) -> np.ndarray:
        """Label probabilities float [n, 28] of every text, in order."""
        self.network.head.eval()
        with torch.inference_mode():
            return self.network.head(self.all_views(states)).sigmoid().numpy()

    def _optimiser(self, rate: float, steps: int):
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=self.settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=WARM_UP)
        return optimiser, schedule

    def _step(self, logits: Tensor, indices: Tensor, optimiser, schedule) -> None:
        weight = torch.full((logits.shape[1],), self.settings.positive_weight)
        loss = functional.binary_cross_entropy_with_logits(logits, self.labels[indices], pos_weight=weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()

    def _shuffled_batches(self, size: int) -> Iterator[list[int]]:
        # Ties between equal lengths fall differently in each epoch, so that batches do.
        order = torch.randperm(len(self.train_states)).tolist()
        lengths = self.train_states.lengths()
        batches = [
            [order[i] for i in batch] for batch in length_sorted_batches([lengths[i] for i in order], size)
        ]
        for index in torch.randperm(len(batches)).tolist():
            yield batches[index]

    def _keep_if_best(self, epoch: str, probabilities: np.ndarray) -> None:
        precision = mean_average_precision(probabilities, self.dev_labels)
        print(f"{epoch}: dev mean average precision {precision:.4f}", flush=True)
        if precision > self.best[0]:
            self.best = (precision, self.network.trained_state())


def compute_token_states(network: EmotionNetwork, texts: list[str]) -> TokenStates:
    """Lower-layer states of every text, computed in batches of similar length."""
    tokenizer = _tokenizer(network.settings)
    rows = tokenizer(texts, truncation=True, max_length=network.settings.max_tokens)["input_ids"]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    states = np.empty((starts[-1], network.encoder.config.hidden_size), dtype=np.float16)
    with torch.inference_mode():
        for indices in length_sorted_batches([len(row) for row in rows], FORWARD_BATCH):
            ids, mask = pad_rows([rows[i] for i in indices], tokenizer.pad_token_id)
            for index, computed in zip(indices, network.lower(ids, mask), strict=True):
                kept = computed[: len(rows[index])]
                states[starts[index] : starts[index + 1]] = kept.half().numpy()
    return TokenStates(states, starts)


def _tokenizer(settings: EmotionNetworkSettings):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve(settings.base))


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


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train_tsv", type=Path)
    parser.add_argument("dev_tsv", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--settings", type=Path, help="JSON file of HeadTrainingSettings")
    given = parser.parse_args()
    settings = HeadTrainingSettings()
    if given.settings:
        settings = HeadTrainingSettings.model_validate_json(given.settings.read_text(encoding="utf-8"))
    print(json.dumps(train_goemotions_head(given.train_tsv, given.dev_tsv, given.out, settings)))


if __name__ == "__main__":
    main()
