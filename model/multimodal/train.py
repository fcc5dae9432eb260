"""LoRA finetuning of a multimodal LLM on exchanges whose sentence it hears or sees (table 1's †; not described in the paper).

The loss is the mean over the true reply's tokens, end of turn included; the encoder of sound or pictures stays as it came.
Knows nothing of datasets, splits or storage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model.adapter import load_adapter, new_adapter, save_adapter
from model.checkpoints import Checkpoints
from model.metrics.donors import with_others
from model.multimodal.model import MultimodalModel, Shown
from model.multimodal.settings import MultimodalTraining
from model.training import Progress, Trainable, TrainRows, looked_at
from model.training_run import Check, run_training, use_threads, write_results

Clips = Callable[[str], Shown]
"""A clip by its digest."""


@dataclass(frozen=True)
class MultimodalExample:
    """prompt: the text that the model is given; clip: the digest of the sentence's clip, None where it has none."""

    key: str
    prompt: str
    reply: str
    clip: str | None
    dialogue: str


def train_multimodal(
    folder: Path,
    train: Sequence[MultimodalExample],
    heldout: Sequence[MultimodalExample],
    clips: Clips,
    settings: MultimodalTraining,
    out: Path,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    start: Path | None = None,
) -> dict:
    """Train, save the adapter and report.json in `out`, and return the report.

    It holds held-out loss before and after, and of each held-out row nats a token before, after, and after with another
    dialogue's clip. start: an adapter of the same settings to go on from. ValueError names an empty split.
    """
    for name, rows in (("train", train), ("dev", heldout)):
        if not rows:
            raise ValueError(f"multimodal: no {name} exchanges")
    use_threads(settings.training)
    model = MultimodalModel(folder, settings.training.dtype)
    if start is None:
        targets = _adapted(model.model, settings.target_modules)
        model.model = new_adapter(model.model, settings.rank, settings.alpha, targets, settings.training.seed)
    else:
        model.model = load_adapter(model.model, start, trainable=True).eval()
    trained = {name: p for name, p in model.model.named_parameters() if p.requires_grad}
    rows = _Rows(model, train, clips)
    looked = looked_at(heldout, settings.training, "multimodal")
    held = _Rows(model, looked, clips)

    def check() -> Check:
        nats = held.measured()
        return Check({"loss": sum(nats) / sum(held.answer_tokens)}, held.a_token(nats))

    outcome = run_training(
        Trainable(trained, [model.model]),
        TrainRows([rows.tokens(i) for i in range(len(train))], [e.key for e in train]),
        rows.loss,
        check,
        settings.training,
        progress=progress,
        checkpoints=checkpoints,
    )
    kinds = [None if e.clip is None else "clip" for e in looked]
    others = with_others(looked, ("clip",), kinds, [len(e.prompt) for e in looked], apart="dialogue")
    away = _Rows(model, [e for e in others if e is not None], clips)
    given = iter(away.a_token(away.measured()))
    report = {
        "train_exchanges": len(train),
        "train_with_clip": sum(e.clip is not None for e in train),
        "heldout_exchanges": len(heldout),
        **outcome.report(
            [e.dialogue for e in looked],
            before=outcome.rows_before,
            after=outcome.rows_after,
            other_clip=[None if e is None else next(given) for e in others],
        ),
    }
    save_adapter(model.model, out)
    data = {"train": train, "heldout": heldout}
    write_results(out, report, {"llm": folder}, data, settings, outcome.history)
    return report


class _Rows:
    """Examples as the model reads them, one at a time, since each clip brings tokens of its own."""

    def __init__(self, model: MultimodalModel, examples: Sequence[MultimodalExample], clips: Clips) -> None:
        self.model, self.examples, self.clips = model, examples, clips
        self.answers = [model.prompter.answer(e.prompt, e.clip is not None, e.reply) for e in examples]
        self.answer_tokens = [len(model.prompter.answer_ids(answer)) for answer in self.answers]

    def tokens(self, at: int) -> int:
        """Of prompt and reply."""
        prompt, _, shown = self._row(at)
        return self.model.prompter.tokens(prompt, shown) + self.answer_tokens[at]

    def _row(self, at: int) -> tuple[str, str, Shown | None]:
        e = self.examples[at]
        prompt = self.model.prompter.prompt(e.prompt, e.clip is not None)
        return prompt, self.answers[at], None if e.clip is None else self.clips(e.clip)

    def loss(self, part: list[int], batch: list[int]) -> tuple[Tensor, dict[str, float]]:
        """The part's share in the mean over the batch's reply tokens."""
        tokens = sum(self.answer_tokens[at] for at in batch)
        share = torch.stack([self.model.nats(*self._row(at)).sum() for at in part]).sum() / tokens
        return share, {"loss": share.item()}

    @torch.no_grad()
    def measured(self) -> list[float]:
        """Nats of each true reply."""
        return [self.model.nats(*self._row(at)).sum().item() for at in range(len(self.examples))]

    def a_token(self, nats: Sequence[float]) -> list[float]:
        return [one / tokens for one, tokens in zip(nats, self.answer_tokens, strict=True)]


def _adapted(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The language model's own modules of these names; encoders have projections that are called so too."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and "language_model" in name.split(".")
        and name.split(".")[-1] in names
    ]
