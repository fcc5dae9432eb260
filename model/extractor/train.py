"""Train the Q-Formers on emotion recognition, the LLM frozen (paper, section 3.1, figure 2, table 4).

Every row shows an example in one input setting: audio, video or both, and for a share of the rows the
sentence as well. The loss is the LLM's own: negative log-likelihood of the answer word and the end of turn.
Knows nothing of datasets, splits or storage.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model.branches import reply_log_probs
from model.card import write_card
from model.checkpoints import Checkpoints
from model.draws import draw_number
from model.extractor.extractor import Extractor, load_extractor, new_extractor
from model.extractor.recognise import (
    EMOTIONS,
    emotion_pieces,
    emotion_scores,
    shared_start,
)
from model.extractor.settings import ExtractorSettings
from model.json_files import write_json
from model.llm import embed, load_llm, prefix_cache, reply_ids
from model.prompts import EMOTION_WORDS
from model.training import Progress, fit, looked_at

SILENT, SPOKEN = ("A", "V", "A+V"), ("A+T", "V+T", "A+V+T")
INPUT_SETTINGS = (*SILENT, "T", *SPOKEN)
"""The bars of figure 6. T alone has nothing to train, it is only evaluated."""


@dataclass(frozen=True)
class EmotionExample:
    """One clip with its label: audio [Ta, d] or None, video [Tv, d] or None, emotion one of EMOTIONS."""

    key: str
    audio: Tensor | None
    video: Tensor | None
    sentence: str
    emotion: str
    dataset: str


@dataclass(frozen=True)
class Row:
    """An example in one input setting."""

    example: EmotionExample
    setting: str


def train_extractor(
    llm_folder: Path,
    train: Sequence[EmotionExample],
    heldout: Sequence[EmotionExample],
    settings: ExtractorSettings,
    out: Path,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    start: Path | None = None,
) -> dict:
    """Train, save the extractor and report.json in `out`, and return the report.

    The report holds held-out loss before and after, accuracy by input setting (over all held-out clips that
    have the modalities, and by dataset) against the majority share, and the history. start: the folder of an
    extractor of the same settings to go on from, instead of new weights. ValueError names a clip without
    features or with an unknown emotion, and an empty split.
    """
    _check(train, "train")
    _check(heldout, "heldout")
    if settings.training.threads is not None:
        torch.set_num_threads(settings.training.threads)
    llm, tokenizer = load_llm(llm_folder, settings.training.dtype)
    if start is not None:
        extractor = load_extractor(start).requires_grad_(True).train()
    else:
        table = llm.get_input_embeddings().weight
        extractor = new_extractor(settings, _width(train, "audio"), _width(train, "video"), table)
        standardise(extractor, train)
    recogniser = Recogniser(llm, tokenizer, extractor.to(llm.device))
    rows = drawn_rows(train, settings)
    heldout = [heldout[i] for i in looked_at(len(heldout), settings.training, "extractor")]
    checked = drawn_rows(heldout, settings, epochs=1)
    batch = settings.training.batch_size

    history = fit(
        # A modality that no row shows gets no gradient; weight decay must not move it either.
        {n: p for n, p in extractor.named_parameters() if _is_shown(n, rows)},
        [recogniser.tokens(row) for row in rows],
        lambda part, batch: recogniser.loss([rows[i] for i in part], [rows[i] for i in batch]),
        lambda: recogniser.figures(checked, batch),
        settings.training.model_copy(update={"epochs": 1}),  # the epochs are in the rows already
        progress,
        checkpoints,
        [row.example.key for row in rows],
        [llm, recogniser.extractor],
    )
    report = {
        "train_clips": len(train),
        "heldout_clips": len(heldout),
        "heldout_before": history.heldout[0],
        "heldout_after": next(h for h in history.heldout if h["step"] == history.best_step),
        **accuracy_report(recogniser, heldout, batch),
        "history": history.as_dict(),
    }
    report["learned"] = _has_learned(report)
    extractor.save(out)
    write_json(report, Path(out) / "report.json")
    write_card(out, {"llm": llm_folder}, {"train": train, "heldout": heldout}, settings, history)
    return report


class Recogniser:
    """Frozen LLM and extractor as one function of rows. The prompt's constant start is encoded once."""

    def __init__(self, llm: nn.Module, tokenizer, extractor: Extractor):
        self.llm, self.tokenizer, self.extractor = llm, tokenizer, extractor
        start = shared_start(tokenizer)
        self.start, self.prefix = len(start), prefix_cache(llm, start)

    def prompts(self, rows: Sequence[Row]) -> list[Tensor]:
        """Input embeddings [T_i, d] of each row's prompt after the cached start."""
        audio = self._embedded(rows, "A")
        video = self._embedded(rows, "V")
        return [
            embed(self.llm, self._pieces(row, audio.get(i), video.get(i)))[self.start :]
            for i, row in enumerate(rows)
        ]

    def tokens(self, row: Row) -> int:
        """Positions the LLM computes for a row in training."""
        slot = torch.zeros(self.extractor.shape.queries, 1)
        parts = row.setting.split("+")
        pieces = self._pieces(row, slot if "A" in parts else None, slot if "V" in parts else None)
        return sum(len(p) for p in pieces) - self.start + len(self._answer(row))

    def loss(self, rows: Sequence[Row], batch: Sequence[Row]) -> tuple[Tensor, dict[str, float]]:
        """The rows' share of the token mean of the batch's answers' negative log-likelihood."""
        answers = [self._answer(row) for row in rows]
        log_probs, _ = reply_log_probs(self.llm, self.prompts(rows), answers, self.prefix)
        return -log_probs.sum() / sum(len(self._answer(row)) for row in batch), {}

    @torch.no_grad()
    def scores(self, rows: Sequence[Row], batch: int) -> Tensor:
        """Summed log-likelihoods fp32 [len(rows), 7] of the answers, in the order of EMOTIONS."""
        parts = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        return torch.cat(
            [emotion_scores(self.llm, self.tokenizer, self.prompts(p), self.prefix).cpu() for p in parts]
        )

    def figures(self, rows: Sequence[Row], batch: int) -> dict[str, float]:
        """Loss as in training, and the accuracy of the read-off."""
        scores = self.scores(rows, batch)
        truth = _truth(rows)
        total = scores.gather(1, truth[:, None]).sum().item()
        count = sum(len(self._answer(row)) for row in rows)
        return {"loss": -total / count, "accuracy": (scores.argmax(1) == truth).float().mean().item()}

    def _embedded(self, rows: Sequence[Row], part: str) -> dict[int, Tensor]:
        """Embeddings [queries, d] of one modality, by the number of the row that shows it."""
        shown = [i for i, row in enumerate(rows) if part in row.setting.split("+")]
        if not shown:
            return {}
        if part == "A":
            states = self.extractor.audio_embeddings([rows[i].example.audio for i in shown])
        else:
            states = self.extractor.video_embeddings([rows[i].example.video for i in shown])
        return dict(zip(shown, states, strict=True))

    def _pieces(self, row: Row, audio: Tensor | None, video: Tensor | None) -> list[Tensor]:
        spoken = "T" in row.setting.split("+")
        return emotion_pieces(self.tokenizer, audio, video, row.example.sentence if spoken else None)

    def _answer(self, row: Row) -> Tensor:
        return reply_ids(self.tokenizer, EMOTION_WORDS[row.example.emotion])


def drawn_rows(
    examples: Sequence[EmotionExample], settings: ExtractorSettings, epochs: int | None = None
) -> list[Row]:
    """Each example once an epoch, in an input setting drawn from seed, epoch and key."""
    rows = []
    for epoch in range(epochs or settings.training.epochs):
        for example in examples:
            draw = random.Random(draw_number(settings.training.seed, "extractor.inputs", epoch, example.key))
            family = SPOKEN if draw.random() < settings.text_share else SILENT
            rows.append(Row(example, draw.choice(possible(example, family))))
    return rows


def possible(example: EmotionExample, family: Sequence[str]) -> list[str]:
    """The input settings of a family for which the example has the modalities."""
    absent = {name for name, value in (("A", example.audio), ("V", example.video)) if value is None}
    return [setting for setting in family if not absent & set(setting.split("+"))]


@torch.no_grad()
def standardise(extractor: Extractor, examples: Sequence[EmotionExample]) -> None:
    """Set the feature mean and spread of both Q-Formers from `examples`, over all their states."""
    for branch, name in ((extractor.audio, "audio"), (extractor.video, "video")):
        count, total, square = 0, 0.0, 0.0
        for example in examples:
            states = example.audio if name == "audio" else example.video
            if states is not None:
                wide = states.double()
                count, total, square = count + len(wide), total + wide.sum(0), square + wide.square().sum(0)
        if count:
            mean = total / count
            spread = (square / count - mean.square()).clamp_min(0).sqrt()
            branch.qformer.center.copy_(mean)
            # A dimension that hardly moves must not be blown up.
            branch.qformer.spread.copy_(spread.clamp_min(1e-3 * spread.mean().clamp_min(1e-6)))


def accuracy_report(recogniser: Recogniser, examples: Sequence[EmotionExample], batch: int) -> dict:
    """Accuracy by input setting, for all examples and by dataset, beside the share of the commonest label.

    "balanced" is the mean of the accuracies of the emotions that occur.
    """
    rows = [
        Row(e, setting)
        for setting in INPUT_SETTINGS
        for e in examples
        if setting in possible(e, INPUT_SETTINGS)
    ]
    hits = (recogniser.scores(rows, batch).argmax(1) == _truth(rows)).tolist()
    judged = list(zip(rows, hits, strict=True))
    by_dataset = {
        dataset: _by_setting([pair for pair in judged if pair[0].example.dataset == dataset])
        for dataset in sorted({e.dataset for e in examples})
    }
    return {"accuracy": _by_setting(judged), "accuracy_by_dataset": by_dataset}


def _by_setting(judged: Sequence[tuple[Row, bool]]) -> dict[str, dict]:
    result = {}
    for setting in INPUT_SETTINGS:
        pairs = [(row.example.emotion, hit) for row, hit in judged if row.setting == setting]
        if not pairs:
            continue
        labels = Counter(emotion for emotion, _ in pairs)
        right = Counter(emotion for emotion, hit in pairs if hit)
        result[setting] = {
            "clips": len(pairs),
            "accuracy": sum(right.values()) / len(pairs),
            "balanced": sum(right[e] / n for e, n in sorted(labels.items())) / len(labels),
            "majority": max(labels.values()) / len(pairs),
        }
    return result


def _has_learned(report: dict) -> bool:
    """The loss fell, and the widest audio-visual setting beats the commonest label."""
    widest = next((report["accuracy"][s] for s in ("A+V", "A", "V") if s in report["accuracy"]), None)
    fell = report["heldout_after"]["loss"] < report["heldout_before"]["loss"]
    return bool(fell and widest and widest["accuracy"] > widest["majority"])


def _truth(rows: Sequence[Row]) -> Tensor:
    return torch.tensor([EMOTIONS.index(row.example.emotion) for row in rows])


def _width(examples: Sequence[EmotionExample], modality: str) -> int:
    """Feature width of a modality; 1 where no example has it, so that its untrained branch stays small."""
    features = (e.audio if modality == "audio" else e.video for e in examples)
    return next((f.shape[1] for f in features if f is not None), 1)


def _is_shown(parameter: str, rows: Sequence[Row]) -> bool:
    part = "A" if parameter.startswith("audio.") else "V"
    return any(part in row.setting.split("+") for row in rows)


def _check(examples: Sequence[EmotionExample], split: str) -> None:
    if not examples:
        raise ValueError(f"extractor: no {split} clips; add data with media or leave the stage out")
    for example in examples:
        if example.emotion not in EMOTION_WORDS:
            raise ValueError(
                f"extractor: {example.key} has emotion {example.emotion!r}; wanted one of {', '.join(EMOTIONS)}"
            )
        if example.audio is None and example.video is None:
            raise ValueError(f"extractor: {example.key} has neither audio nor video; leave it out of {split}")
        for modality, features in (("audio", example.audio), ("video", example.video)):
            if features is not None and not len(features):
                raise ValueError(
                    f"extractor: the {modality} of {example.key} has length zero; leave it out of {split}"
                )
