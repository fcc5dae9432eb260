"""The one training loop: AdamW with fp32 master weights, warm-up and cosine, seeded batches, best checkpoint.

The order of batches is a function of the seed and the row lengths alone, so a run that was cut off goes on from
its last step checkpoint to the same weights. A step's rows may be run in parts, one after the other and in several
processes: it stays the same step, up to rounding. Knows nothing of any loss, of storage, or of who shows the progress.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from model.checkpoints import Checkpoints
from model.draws import draw_number
from model.event_log import EventLog
from model.json_files import write_json
from model.processes import Processes, summed
from model.settings import TrainingSettings
from model.training_memory import TrainingMemory
from model.weights import differing_tensors, named

LOG = logging.getLogger(__name__)
"""Where a run says what no figure can."""

FAILED_BATCH = "failed-batch.json"
"""What stopped a run, beside its checkpoint."""

COUNT, MOMENTS = "step", ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for each tensor: how many steps it took, and two tensors of its shape."""

Row = TypeVar("Row")

Progress = Callable[[int, int, dict[str, float]], None]
"""Called as progress(step, steps, logs)."""

Loss = Callable[[list[int], list[int]], tuple[Tensor, dict[str, float]]]
"""loss(part, batch) -> the share that the rows `part` have in the loss of the rows `batch`, and in every figure of
the log. Shares add up: where the loss of a batch is the mean over its tokens, a part's share is the sum over its own
tokens, divided by how many the batch has. Of the whole, loss(batch, batch), it is the mean itself."""


Evaluate = Callable[[], dict[str, float]]
"""evaluate() -> held-out figures, of which "loss" chooses the checkpoint: lower is better."""


@dataclass(frozen=True)
class Trainable:
    """What a run trains, and what its memory is estimated from.

    parameters: by name. models: all modules in memory meanwhile. memory_limit: bytes that training may take beside
    their weights; None: what is free. peaks: the peak learning rate of each parameter that has another than the settings'.
    """

    parameters: dict[str, Tensor]
    models: Sequence[nn.Module] = ()
    memory_limit: int | None = None
    peaks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainRows:
    """The rows that a run is planned over, by number; what they hold is known to the loss alone.

    lengths: tokens that are computed for each. names: what each is called in messages; None: its number. planned: the
    lengths by which batches are planned and `max_tokens` is spent, where those are not `lengths`.
    """

    lengths: Sequence[int]
    names: Sequence[str] | None = None
    planned: Sequence[int] | None = None

    def batches(self, settings: TrainingSettings) -> list[list[int]]:
        """The rows of every step."""
        return plan_batches(self.lengths if self.planned is None else self.planned, settings)

    def tokens(self, rows: Sequence[int]) -> int:
        """What is computed for some rows together."""
        return sum(self.lengths[i] for i in rows)

    def called(self, rows: Sequence[int]) -> list:
        """The names of some rows."""
        return list(rows) if self.names is None else [self.names[i] for i in rows]


@dataclass(frozen=True)
class Objective:
    """The two callbacks that say what training is for: see `Loss` and `Evaluate`."""

    loss: Loss
    evaluate: Evaluate


@dataclass(frozen=True)
class Rule:
    """What ends a run beside its budget, and chooses its checkpoint beside the held-out loss.

    Functions of the history alone, so that a run that was cut off and goes on decides as it would have. ends: why it
    ends here, asked before every step; "" goes on. keeps: whether the weights of the last check are kept whatever its
    loss is, or are not; None leaves it to the loss.
    """

    ends: Callable[[History], str] = lambda history: ""
    keeps: Callable[[History], bool | None] = lambda history: None


@dataclass
class History:
    """What a run did: losses by step, held-out figures by step, the step that was kept, and why it ended.

    ended: "budget", "converged: n checks without improvement" or a `Rule`'s reason; empty where nothing was trained to
    its end.
    """

    train: list[dict[str, float]] = field(default_factory=list)
    heldout: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    rows: int = 0
    best_step: int = 0
    ended: str = ""

    @property
    def stale_checks(self) -> int:
        """Held-out checks since the best one."""
        return sum(entry["step"] > self.best_step for entry in self.heldout)

    @property
    def first_check(self) -> dict[str, float]:
        """Held-out figures before the first step."""
        return self.heldout[0]

    @property
    def best_check(self) -> dict[str, float]:
        """Held-out figures of the step that was kept."""
        return self.heldout[self.best_index]

    @property
    def best_index(self) -> int:
        """Which of the held-out checks was the best."""
        return next(i for i, check in enumerate(self.heldout) if check["step"] == self.best_step)

    def as_dict(self) -> dict:
        return asdict(self)


WITHOUT_RULE = Rule()


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and the rows, and the file that holds more of them."""


def seeded_order(count: int, seed: int, *parts: object) -> list[int]:
    """A permutation of range(count), a function of the seed and the parts (an epoch, a name) alone."""
    order = list(range(count))
    random.Random(draw_number(seed, "training.order", *parts)).shuffle(order)
    return order


def looked_at(rows: Sequence[Row], settings: TrainingSettings, stage: str) -> list[Row]:
    """The held-out rows that a stage looks at, in their order; stages draw theirs independently."""
    drawn = seeded_order(len(rows), settings.seed, f"{stage}.heldout")[: settings.heldout_rows]
    return [rows[i] for i in sorted(drawn)]


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
            for batch in (cut[i] for i in seeded_order(len(cut), settings.seed, epoch, "batches", start)):
                cost = sum(lengths[i] for i in batch)
                if settings.max_tokens is not None and batches and spent + cost > settings.max_tokens:
                    return batches
                spent += cost
                batches.append(batch)
    return batches


def learning_rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """Learning rate of a step: linear warm-up, then cosine to a tenth."""
    warmup = max(1, round(settings.warmup_share * steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, steps - warmup)
    return settings.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def fit(
    trainable: Trainable,
    rows: TrainRows,
    objective: Objective,
    settings: TrainingSettings,
    *,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    rule: Rule = WITHOUT_RULE,
) -> History:
    """Train `trainable.parameters` in place and leave them at the best held-out loss, or the step that `rule` keeps.

    The loss must be a function of the rows and the parameters alone. Held-out figures are taken before the first step
    and `settings.evaluations` times, or until `settings.patience` checks in a row were no better. The optimizer works
    on fp32 copies, so low-precision weights still learn from small steps. checkpoints: where a run that is cut off
    leaves its state and goes on from, and its curves; the caller removes it in the end. The memory that training needs
    is checked before anything is computed, and again, and logged, once the first batch has shown the activations.

    Several processes (model/processes.py) call this alike and end with the same weights; the main one alone shows
    and saves anything. Raises TrainingError where memory does not suffice, on a held-out loss that is not
    finite, and on such a loss or gradient; with checkpoints, the state before that step and the batch are left there.
    """
    torch.manual_seed(settings.seed)
    processes, parameters = Processes(), trainable.parameters
    batches = rows.batches(settings)
    parts = [processes.parts(batch, settings.accumulation) for batch in batches]
    longest = max((rows.tokens(part) for step in parts for part in step), default=0)
    memory = TrainingMemory(
        parameters,
        trainable.models,
        settings.accumulation,
        longest,
        processes.count,
        trainable.memory_limit,
        settings.activation_checkpointing,
    )
    _check_memory(memory, processes)
    state = _State.start(parameters, settings, processes, trainable.peaks)
    saved = checkpoints.load() if checkpoints is not None else None
    if saved is None:
        state.check(parameters, processes.from_main(objective.evaluate()), rule)
    else:
        _check_saved(state, *saved, checkpoints)
        state.restore(parameters, *saved)
    first, steps, history = state.step, len(batches), state.history
    checks = {round(steps * (i + 1) / settings.evaluations) for i in range(settings.evaluations)}
    saving = checkpoints if processes.is_main else None
    with EventLog(None if saving is None else saving.events) as events:
        events.write("train", [_with_rate(entry, steps, settings) for entry in history.train])
        events.write("heldout", history.heldout)
        for step in range(first, steps):
            # Of the history alone: a run that was cut off and goes on ends where it would have.
            if _why_it_ends(history, settings, rule):
                break
            batch = batches[step]
            of_this_process = _gradients(parameters, state, objective.loss, batch, parts[step], rows, memory)
            figures = summed(processes.gathered(of_this_process))
            if step == first:
                _check_memory(memory, processes)
                LOG.info(memory.line())
            if not math.isfinite(figures["loss"]):
                raise _failure(f"loss is {figures['loss']}", state, batch, rows, figures, saving)
            norm = state.update(
                parameters, learning_rate(step, steps, settings), settings.gradient_clip, processes
            )
            if norm is not None:
                raise _failure(f"the gradient's norm is {norm}", state, batch, rows, figures, saving)
            history.tokens += rows.tokens(batch)
            history.rows += len(batch)
            history.train.append({"step": step + 1, **figures})
            events.write("train", [_with_rate(history.train[-1], steps, settings)])
            if step + 1 in checks:
                state.check(parameters, processes.from_main(objective.evaluate()), rule)
                events.write("heldout", history.heldout[-1:])
            if progress is not None and processes.is_main:
                progress(step + 1, steps, history.train[-1])
            if saving is not None and saving.due():
                saving.save(*state.saved())
    history.ended = _why_it_ends(history, settings, rule) or "budget"
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(state.best[name])
    return history


def _why_it_ends(history: History, settings: TrainingSettings, rule: Rule) -> str:
    """The rule's reason, or that as many held-out checks as `patience` says were no better than the best; "": neither."""
    converged = settings.patience is not None and history.stale_checks >= settings.patience
    converged_after = f"converged: {history.stale_checks} checks without improvement" if converged else ""
    return rule.ends(history) or converged_after


def _gradients(
    parameters: dict[str, Tensor],
    state: _State,
    loss: Loss,
    batch: list[int],
    parts: Sequence[list[int]],
    rows: TrainRows,
    memory: TrainingMemory,
) -> dict[str, float]:
    """Leave the parts' gradients in the masters; returns the parts' shares of the loss and the log, added up.

    For an empty part a row of others is run, and nothing kept of it: processes that hold shards of one LLM must
    run it equally often.
    """
    shares = []
    for part in parts:
        run = part or batch[:1]
        with memory.watching(rows.tokens(run)):
            value, logs = loss(run, batch)
        (value if part else 0.0 * value).backward()
        state.add_gradients(parameters)
        if part:
            shares.append({"loss": value.item(), **logs})
    return summed(shares)


def _check_memory(memory: TrainingMemory, processes: Processes) -> None:
    """TrainingError, in every process, where one of them cannot have what is known of the need."""
    if max(said["short"] for said in processes.gathered({"short": memory.short})) > 0:
        raise TrainingError(
            f"{memory.account()}. That cannot fit: a smaller batch_size, a larger accumulation or activation_checkpointing "
            "takes fewer activations, a smaller rank or model the rest"
        )


def _check_saved(state: _State, tensors: dict[str, Tensor], facts: dict, checkpoints: Checkpoints) -> None:
    """TrainingError naming what a checkpoint lacks, has beyond, or has in another shape than `state` takes."""
    differing = differing_tensors(state.expected(), tensors) or named(
        {"missing": sorted({"step", "history"} - facts.keys())}
    )
    if differing:
        raise TrainingError(
            f"{checkpoints.path}: partial, or of another training: {differing}; remove it, and training starts again"
        )


def _with_rate(entry: dict[str, float], steps: int, settings: TrainingSettings) -> dict[str, float]:
    """A step's figures and the learning rate it was taken with."""
    return {**entry, "learning_rate": learning_rate(int(entry["step"]) - 1, steps, settings)}


def _failure(
    what: str,
    state: _State,
    batch: list[int],
    rows: TrainRows,
    logs: dict[str, float],
    checkpoints: Checkpoints | None,
) -> TrainingError:
    """The error of a step that cannot be taken; its batch and the state before it are saved where there is room."""
    called = rows.called(batch)
    failure = f"step {state.step + 1}: {what} on rows {', '.join(map(str, called))}"
    if checkpoints is None:
        return TrainingError(f"{failure}; look at these rows, or lower the learning rate")
    if state.step:
        checkpoints.save(*state.saved())
    file = checkpoints.folder / FAILED_BATCH
    figures = {name: str(value) for name, value in logs.items() if name != "loss"}
    write_json({"step": state.step + 1, "what": what, "rows": batch, "names": called, "logs": figures}, file)
    return TrainingError(f"{failure}; saved in {file}; look at these rows, or lower the learning rate")


@dataclass
class _State:
    """All that the next step depends on."""

    masters: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    best: dict[str, Tensor]
    history: History = field(default_factory=History)
    step: int = 0

    @classmethod
    def start(
        cls,
        parameters: dict[str, Tensor],
        settings: TrainingSettings,
        processes: Processes,
        peaks: Mapping[str, float],
    ) -> _State:
        """The state before the first step; the parameters become those of the main process."""
        processes.copy_from_main(parameters.values())
        masters = {name: p.detach().float().clone() for name, p in parameters.items()}
        groups: dict[float, list[Tensor]] = {}
        for name, master in masters.items():
            peak = peaks.get(name, settings.learning_rate)
            groups.setdefault(peak / settings.learning_rate, []).append(master)
        optimizer = torch.optim.AdamW(
            [{"params": group, "factor": factor} for factor, group in groups.items()],
            lr=0.0,
            betas=(0.9, settings.adam_beta2),
            weight_decay=settings.weight_decay,
        )
        return cls(masters, optimizer, {name: p.detach().clone() for name, p in parameters.items()})

    @torch.no_grad()
    def check(self, parameters: dict[str, Tensor], figures: dict[str, float], rule: Rule) -> None:
        """Note held-out figures, and keep the parameters if those kept before were no better, or as `rule` has it.

        TrainingError where the loss is not finite: it is neither better nor worse than any other, so that nothing
        of what is trained could be chosen by it.
        """
        heldout = self.history.heldout
        if not math.isfinite(figures["loss"]):
            raise TrainingError(
                f"step {self.step}: held-out loss is {figures['loss']}; look at the held-out rows, or lower the "
                "learning rate"
            )
        kept = self.history.best_step
        best = next((entry["loss"] for entry in heldout if entry["step"] == kept), math.inf)
        heldout.append({"step": self.step, **figures})
        keeps = rule.keeps(self.history)
        if keeps or (keeps is None and figures["loss"] < best):
            self.history.best_step = self.step
            for name, p in parameters.items():
                self.best[name].copy_(p)

    def add_gradients(self, parameters: dict[str, Tensor]) -> None:
        """Add the parameters' gradients, in fp32, to those of the parts before, and take them from the parameters."""
        for name, master in self.masters.items():
            gradient, parameters[name].grad = parameters[name].grad, None
            if gradient is not None:
                master.grad = gradient.float() if master.grad is None else master.grad.add_(gradient)

    @torch.no_grad()
    def update(
        self, parameters: dict[str, Tensor], learning_rate: float, clip: float, processes: Processes
    ) -> float | None:
        """One step of the optimizer; where the gradient is not finite its norm, and nothing has changed."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["factor"]
        for master in self.masters.values():
            master.grad = torch.zeros_like(master) if master.grad is None else master.grad
        processes.sum(master.grad for master in self.masters.values())
        norm = torch.nn.utils.clip_grad_norm_(list(self.masters.values()), clip)
        if not torch.isfinite(norm):
            return norm.item()
        self.optimizer.step()
        self.optimizer.zero_grad()
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

    def expected(self) -> dict[str, Tensor]:
        """Tensors of the names and shapes that `restore` takes, whatever they hold."""
        parts = ("best", "master", *MOMENTS)
        wanted = {f"{part}/{name}": master for name, master in self.masters.items() for part in parts}
        return wanted | {f"{COUNT}/{name}": torch.zeros(()) for name in self.masters}

    @torch.no_grad()
    def restore(self, parameters: dict[str, Tensor], tensors: dict[str, Tensor], facts: dict) -> None:
        self.step, self.history = facts["step"], History(**facts["history"])
        for name, master in self.masters.items():
            master.copy_(tensors[f"master/{name}"])
            parameters[name].copy_(master)
            self.best[name].copy_(tensors[f"best/{name}"])
            # Adam counts its steps in a tensor on the CPU; its two moments live beside the weights.
            self.optimizer.state[master] = {
                part: tensors[f"{part}/{name}"].to("cpu" if part == COUNT else master.device)
                for part in (COUNT, *MOMENTS)
            }
