"""The one training loop: AdamW with fp32 master weights, warm-up and cosine, seeded batches, best checkpoint.

The order of batches is a function of the seed and the row lengths alone, so a run that was cut off goes on from
its last step checkpoint to the same weights. Knows nothing of any loss, of storage, or of who shows the progress.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from model.checkpoints import Checkpoints
from model.report import write_json
from model.settings import TrainingSettings

FAILED_BATCH = "failed-batch.json"
"""What stopped a run, beside its checkpoint."""

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
    """Training cannot go on; the message names the step and the rows, and the file that holds more of them."""


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
    checkpoints: Checkpoints | None = None,
    names: Sequence[str] | None = None,
) -> History:
    """Train `parameters` in place and leave them at the best held-out loss.

    loss(rows) -> (scalar with gradient, logs), a function of the rows and the parameters alone; evaluate() ->
    figures, of which "loss" chooses the checkpoint (lower is better); it is called before the first step and
    `settings.evaluations` times. The optimizer works on fp32 copies, so low-precision weights still learn from
    small steps. checkpoints: where a run that is cut off leaves its state and goes on from; the caller removes
    it in the end. names: what each row is called in messages. Raises TrainingError on a loss or a gradient that
    is not finite; with checkpoints, the state before that step and the batch are left there.
    """
    torch.manual_seed(settings.seed)
    batches = plan_batches(lengths, settings)
    state = _State.start(parameters, settings)
    saved = checkpoints.load() if checkpoints is not None else None
    if saved is None:
        state.check(parameters, evaluate())
    else:
        state.restore(parameters, *saved)
    checks = {round(len(batches) * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
    for step in range(state.step, len(batches)):
        rows = batches[step]
        value, logs = loss(rows)
        if not torch.isfinite(value):
            raise _failure(f"loss is {value.item()}", state, rows, names, logs, checkpoints)
        value.backward()
        norm = state.update(parameters, rate(step, len(batches), settings), settings.gradient_clip)
        if norm is not None:
            raise _failure(f"the gradient's norm is {norm}", state, rows, names, logs, checkpoints)
        history = state.history
        history.tokens += sum(lengths[i] for i in rows)
        history.rows += len(rows)
        history.train.append({"step": step + 1, "loss": value.item(), **logs})
        if step + 1 in checks:
            state.check(parameters, evaluate())
        if progress is not None:
            progress(step + 1, len(batches), history.train[-1])
        if checkpoints is not None and checkpoints.due():
            checkpoints.save(*state.saved())
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(state.best[name])
    return state.history


def _failure(
    what: str,
    state: _State,
    rows: list[int],
    names: Sequence[str] | None,
    logs: dict[str, float],
    checkpoints: Checkpoints | None,
) -> TrainingError:
    """The error of a step that cannot be taken; its batch and the state before it are saved where there is room."""
    called = [names[i] for i in rows] if names is not None else rows
    told = f"step {state.step + 1}: {what} on rows {', '.join(map(str, called))}"
    if checkpoints is None:
        return TrainingError(f"{told}; look at these rows, or lower the learning rate")
    if state.step:
        checkpoints.save(*state.saved())
    file = checkpoints.folder / FAILED_BATCH
    figures = {name: str(value) for name, value in logs.items()}
    write_json({"step": state.step + 1, "what": what, "rows": rows, "names": called, "logs": figures}, file)
    return TrainingError(f"{told}; saved in {file}; look at these rows, or lower the learning rate")


@dataclass
class _State:
    """All that the next step depends on."""

    masters: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    best: dict[str, Tensor]
    history: History = field(default_factory=History)
    step: int = 0

    @classmethod
    def start(cls, parameters: dict[str, Tensor], settings: TrainingSettings) -> _State:
        masters = {name: p.detach().float().clone() for name, p in parameters.items()}
        optimizer = torch.optim.AdamW(list(masters.values()), lr=0.0, weight_decay=settings.weight_decay)
        return cls(masters, optimizer, _snapshot(parameters))

    def check(self, parameters: dict[str, Tensor], figures: dict[str, float]) -> None:
        """Note held-out figures, and keep the parameters if none before were better."""
        heldout = self.history.heldout
        best = min((entry["loss"] for entry in heldout), default=math.inf)
        heldout.append({"step": self.step, **figures})
        if figures["loss"] < best:
            self.best, self.history.best_step = _snapshot(parameters), self.step

    @torch.no_grad()
    def update(self, parameters: dict[str, Tensor], learning_rate: float, clip: float) -> float | None:
        """One step of the optimizer; where the gradient is not finite its norm, and nothing has changed."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        for name, master in self.masters.items():
            gradient = parameters[name].grad
            master.grad = torch.zeros_like(master) if gradient is None else gradient.float()
            parameters[name].grad = None
        norm = torch.nn.utils.clip_grad_norm_(list(self.masters.values()), clip)
        if not torch.isfinite(norm):
            return norm.item()
        self.optimizer.step()
        for name, master in self.masters.items():
            parameters[name].copy_(master)
        self.step += 1
        return None

    def saved(self) -> tuple[dict[str, Tensor], dict]:
        """Tensors and facts for a checkpoint; `restore` is its inverse."""
        tensors = {f"best/{name}": t for name, t in self.best.items()}
        for name, master in self.masters.items():
            tensors[f"master/{name}"] = master
            tensors |= {f"{part}/{name}": t for part, t in self.optimizer.state[master].items()}
        return tensors, {"step": self.step, "history": self.history.as_dict()}

    @torch.no_grad()
    def restore(self, parameters: dict[str, Tensor], tensors: dict[str, Tensor], facts: dict) -> None:
        self.step, self.history = facts["step"], History(**facts["history"])
        for name, master in self.masters.items():
            master.copy_(tensors[f"master/{name}"])
            parameters[name].copy_(master)
            self.best[name].copy_(tensors[f"best/{name}"])
            # Adam counts its steps in a tensor on the CPU; its two moments live beside the weights.
            self.optimizer.state[master] = {
                part: tensors[f"{part}/{name}"].to("cpu" if part == "step" else master.device)
                for part in ("step", "exp_avg", "exp_avg_sq")
            }


def _snapshot(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}
