"""Texts become emotion features (for cosine similarity) and GoEmotions probabilities.

Knows nothing of candidates, thresholds of selection, stages or stores. Two kinds of weights sit behind one class:
a RoBERTa classifier of the hub (the paper's) and the project's own, trained on top of MiniLM.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.batches import length_sorted_batches
from model.device import best_device
from model.llm import DTYPES
from model.pretrained import from_folder, in_dtype, whole_model
from model.scorer.batches import pad_rows
from model.scorer.labels import GOEMOTIONS_LABELS
from model.scorer.network import MODEL_TYPE, load_network, token_rows
from model.scorer.settings import ScorerSettings
from model.zoo.resolve import resolve

USUAL_THRESHOLD = 0.5
"""Of classifiers that come without thresholds of their own."""


class RobertaBackend(nn.Module):
    """RoBERTa fine-tuned on GoEmotions.

    The feature is tanh(`classifier.dense` of the last state of `<s>`): the output of the last layer trained on
    GoEmotions before the label projection `classifier.out_proj`.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import RobertaForSequenceClassification

        self.model = whole_model(RobertaForSequenceClassification, folder, dtype=torch.float32).eval()
        self.tokenizer_folder = folder
        self.column_of_label = _columns(self.model.config.id2label, folder)
        self.feature_width = self.model.config.hidden_size
        self.started = False

    def hidden_states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states float [B, width]."""
        states = self.model.roberta(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
        return torch.tanh(self.model.classifier.dense(states[:, 0]))

    def emotion_features(self, hidden: Tensor) -> Tensor:
        """The hidden states themselves."""
        return hidden

    def label_logits(self, hidden: Tensor) -> Tensor:
        """Logits float [B, 28] in the order of GOEMOTIONS_LABELS."""
        return self.model.classifier.out_proj(hidden)[:, self.column_of_label]


class MiniLMBackend(nn.Module):
    """The project's own, on top of MiniLM; `EmotionHead` says what the feature is."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.network = load_network(folder)
        self.tokenizer_folder = resolve(self.network.settings.base)
        self.feature_width = len(GOEMOTIONS_LABELS)
        self.started = self.network.started

    def hidden_states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states float [B, hidden]."""
        return self.network.head.hidden_states(self.network.pooled(input_ids, mask))

    def emotion_features(self, hidden: Tensor) -> Tensor:
        """Features float [B, 28]."""
        return self.network.head.emotion_features(hidden)

    def label_logits(self, hidden: Tensor) -> Tensor:
        """Logits float [B, 28]."""
        return self.network.head.label_logits(hidden)


class EmotionScorer:
    """Emotion features and probabilities of texts, on the GPU where there is one. Each distinct text is computed once a call."""

    def __init__(self, backend: RobertaBackend | MiniLMBackend, settings: ScorerSettings) -> None:
        from transformers import AutoTokenizer

        self.device = best_device()
        self.backend = in_dtype(backend.eval(), DTYPES[settings.dtype]).to(self.device)
        self.settings = settings
        self.tokenizer = from_folder(AutoTokenizer, backend.tokenizer_folder)
        self.thresholds = np.full(len(GOEMOTIONS_LABELS), USUAL_THRESHOLD, np.float32)
        """Probability from which each label counts as present, float32 [28]."""
        self.encoder = settings.weights
        """What the scorer's features come from: two scorers on one encoder err alike."""

    @classmethod
    def load(cls, name: str, settings: ScorerSettings | None = None) -> "EmotionScorer":
        """The scorer with the weights `name` (a weight name or a folder); ValueError when they are no scorer.

        `settings.weights` is replaced by `name`.
        """
        settings = (settings or ScorerSettings()).model_copy(update={"weights": name})
        folder = resolve(name)
        try:
            described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{folder}: no config.json: not a scorer's folder") from None
        model_type = described.get("model_type")
        if model_type == MODEL_TYPE:
            scorer = cls(MiniLMBackend(folder), settings)
            scorer.thresholds = np.array(described["thresholds"], np.float32)
            scorer.encoder = described["base_identity"]
            return scorer
        if model_type == "roberta":
            return cls(RobertaBackend(folder), settings)
        raise ValueError(
            f"scorer {name!r}: model type {model_type!r}; give a RoBERTa classifier or an emotion head"
        )

    def features(
        self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Unit vectors float32 [n, width], one a text. progress(distinct texts done, of how many) after each batch."""
        return self._compute(texts, progress)[0]

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities float32 [n, 28] in the order of GOEMOTIONS_LABELS, each label on its own."""
        return self._compute(texts)[1]

    def features_and_probabilities(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Both, by one pass."""
        return self._compute(texts)

    def _compute(
        self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        distinct = sorted(set(texts))
        place = {text: index for index, text in enumerate(distinct)}
        rows = self._tokenise(distinct)
        features = np.empty((len(rows), self.backend.feature_width), np.float32)
        probabilities = np.empty((len(rows), len(GOEMOTIONS_LABELS)), np.float32)
        done = 0
        with torch.inference_mode():
            for indices in length_sorted_batches(
                [len(row) for row in rows], self.settings.batch_size, longest_first=True
            ):
                ids, mask = pad_rows([rows[index] for index in indices], self.tokenizer.pad_token_id)
                hidden = self.backend.hidden_states(ids.to(self.device), mask.to(self.device))
                found = self.backend.emotion_features(hidden).float()
                features[indices] = nn.functional.normalize(found, dim=1).cpu().numpy()
                probabilities[indices] = self.backend.label_logits(hidden).float().sigmoid().cpu().numpy()
                done += len(indices)
                if progress is not None:
                    progress(done, len(rows))
        order = [place[text] for text in texts]
        return features[order], probabilities[order]

    def _tokenise(self, texts: list[str]) -> list[list[int]]:
        return token_rows(self.tokenizer, texts, self.settings.max_tokens, self.backend.started)


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Row-wise cosine similarity float32 [n] of float [n, width] and float [n, width].

    A zero row has cosine 0 with everything. ValueError when the shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(
            f"cosine: shapes {first.shape} and {second.shape} differ; give one row for each pair"
        )
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    products = (first * second).sum(-1)
    return np.divide(products, norms, out=np.zeros_like(products), where=norms > 0).astype(np.float32)


def _columns(id2label: dict[int, str], folder: Path) -> list[int]:
    """For each GoEmotions label the classifier's column; generic names (LABEL_0 …) keep their order."""
    names = [id2label[index] for index in range(len(id2label))]
    if names == [f"LABEL_{index}" for index in range(len(GOEMOTIONS_LABELS))]:
        return list(range(len(names)))
    if sorted(names) != sorted(GOEMOTIONS_LABELS):
        raise ValueError(
            f"{folder}: labels {names[:3]}… are not the 28 of GoEmotions; give such a classifier"
        )
    return [names.index(label) for label in GOEMOTIONS_LABELS]
