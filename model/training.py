"""The one training loop: AdamW with fp32 master weights, warm-up and cosine, seeded batches, best checkpoint.

The order of batches is a function of the seed and the row lengths alone. Knows nothing of any loss, of
storage, or of who shows the progress.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from model.settings import TrainingSettings

Progress = Callable[[int, int, dict[str, float]], None]
"""Called as progress(step, steps, logs)."""


@dataclass
class History:
    """What a run did: losses by step, held-out figures by step, and the step that was kept."""

    train: list[dict[str, float]] = field(default_factory=list)
    heldout: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    rows: int = 0
    best_step: int = 0

    def as_dict(self) -> dict:
        return asdict(self)


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and the rows."""


def seeded_order(count: int, seed: int, epoch: int) -> list[int]:
    """A permutation of range(count), a function of seed and epoch alone."""
    digest = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8).digest()
    order = list(range(count))
    random.Random(int.from_bytes(digest, "big")).shuffle(order)
    return order


def plan_batches(lengths: Sequence[int], settings: TrainingSettings) -> list[list[int]]:
    """Row indices of every step: shuffled, alike lengths together, cut off at the token budget.

    lengths: tokens of each row, counted against `max_tokens`.
    """
    batches: list[list[int]] = []
    spent = 0
    for epoch in range(settings.epochs):
        order = seeded_order(len(lengths), settings.seed, epoch)
        window = settings.batch_size * 8  # sort by length within a window: little padding, still random
        for start in range(0, len(order), window):
            rows = sorted(order[start : start + window], key=lambda i: (lengths[i], i))
            cut = [rows[i : i + settings.batch_size] for i in range(0, len(rows), settings.batch_size)]
            for batch in (cut[i] for i in seeded_order(len(cut), settings.seed, epoch * 100_003 + start)):
                cost = sum(lengths[i] for i in batch)
                if settings.max_tokens is not None and batches and spent + cost > settings.max_tokens:
                    return batches
                spent += cost
                batches.append(batch)
    return batches


def rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """Learning rate of a step: linear warm-up, then cosine to a tenth."""
    warmup = max(1, round(settings.warmup_share * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return settings.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def fit(
    parameters: dict[str, Tensor],
    lengths: Sequence[int],
    loss: Callable[[list[int]], tuple[Tensor, dict[str, float]]],
    evaluate: Callable[[], dict[str, float]],
    settings: TrainingSettings,
    progress: Progress | None = None,
) -> History:
    """Train `parameters` in place and leave them at the best held-out loss.

    loss(rows) -> (scalar with gradient, logs); evaluate() -> figures, of which "loss" chooses the
    checkpoint (lower is better); it is called before the first step and `settings.evaluations` times.
    The optimizer works on fp32 copies, so low-precision weights still learn from small steps.
    Raises TrainingError on a loss that is not finite.
    """
    torch.manual_seed(settings.seed)
    batches = plan_batches(lengths, settings)
    masters = {name: p.detach().float().clone() for name, p in parameters.items()}
    optimizer = torch.optim.AdamW(list(masters.values()), lr=0.0, weight_decay=settings.weight_decay)
    history = History(heldout=[{"step": 0, **evaluate()}])
    best, best_loss = _snapshot(parameters), history.heldout[0]["loss"]
    checks = {round(len(batches) * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
    for step, rows in enumerate(batches):
        value, logs = loss(rows)
        if not torch.isfinite(value):
            raise TrainingError(f"step {step + 1}: loss is {value.item()} on rows {rows}")
        value.backward()
        _update(parameters, masters, optimizer, rate(step, len(batches), settings), settings.gradient_clip)
        history.tokens += sum(lengths[i] for i in rows)
        history.rows += len(rows)
        history.train.append({"step": step + 1, "loss": value.item(), **logs})
        if step + 1 in checks:
            history.heldout.append({"step": step + 1, **evaluate()})
            if history.heldout[-1]["loss"] < best_loss:
                best, best_loss = _snapshot(parameters), history.heldout[-1]["loss"]
                history.best_step = step + 1
        if progress is not None:
            progress(step + 1, len(batches), history.train[-1])
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(best[name])
    return history


def _snapshot(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}


@torch.no_grad()
def _update(parameters, masters, optimizer, learning_rate: float, clip: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    for name, master in masters.items():
        gradient = parameters[name].grad
        master.grad = torch.zeros_like(master) if gradient is None else gradient.float()
        parameters[name].grad = None
    torch.nn.utils.clip_grad_norm_(list(masters.values()), clip)
    optimizer.step()
    for name, master in masters.items():
        parameters[name].copy_(master)
