"""The training loop against Adam written out in plain numbers: clip, weight decay, rate; and its batches by hand."""

import json
import math

import pytest
import torch

from model.checkpoints import Checkpoints
from model.settings import TrainingSettings
from model.training import (
    FAILED_BATCH,
    History,
    Objective,
    Trainable,
    TrainingError,
    TrainRows,
    fit,
    learning_rate,
    plan_batches,
    seeded_order,
)

GRADIENTS = {"a": (3.0, -0.01, 0.5, -8.0), "b": (-4.0, 0.02, 0.1, 6.0)}
"""What the loss's gradient is at each step: norms 5, 0.022, 0.51 and 10, so that a clip of 0.5 acts in three of four."""


def adamw(clip: float, decay: float, settings: TrainingSettings) -> dict[str, float]:
    """The two weights after four steps (Loshchilov and Hutter 2019, algorithm 2; betas 0.9 and 0.999, eps 1e-8)."""
    weights, first, second = {"a": 1.0, "b": -2.0}, {"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0}
    for step in range(4):
        norm = math.hypot(*(GRADIENTS[name][step] for name in weights))
        for name in weights:
            gradient = GRADIENTS[name][step] * min(1.0, clip / norm)
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean = first[name] / (1 - 0.9 ** (step + 1))
            spread = second[name] / (1 - 0.999 ** (step + 1))
            change = mean / (math.sqrt(spread) + 1e-8) + decay * weights[name]
            weights[name] -= learning_rate(step, 4, settings) * change
    return weights


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("clip, decay", [(1e9, 0.0), (0.5, 0.0), (1e9, 0.3), (0.5, 0.3)])
def test_steps_are_adamws_with_the_gradient_clipped_and_the_weights_decayed(clip, decay, accumulation):
    settings = TrainingSettings(
        learning_rate=0.1,
        batch_size=2,
        epochs=4,
        warmup_share=0.5,
        gradient_clip=clip,
        weight_decay=decay,
        accumulation=accumulation,
    )
    parameters = {name: torch.tensor(v, requires_grad=True) for name, v in (("a", 1.0), ("b", -2.0))}
    ran: list[int] = []

    def loss(rows, whole):
        """Each of the batch's two rows has half of it."""
        step, share = len(ran) // 2, len(rows) / len(whole)
        ran.extend(rows)
        return share * sum(GRADIENTS[name][step] * p for name, p in parameters.items()), {}

    history = fit(
        Trainable(parameters),
        TrainRows([1, 1]),
        Objective(loss, lambda: {"loss": -float(len(ran))}),
        settings,
    )
    assert history.best_step == 4 and len(ran) == 8
    expected = adamw(clip, decay, settings)
    assert {name: p.item() for name, p in parameters.items()} == pytest.approx(expected, abs=1e-5)
    # or these numbers could not tell
    for other in (adamw(1e9, 0.0, settings), adamw(0.5, 0.0, settings), adamw(1e9, 0.3, settings)):
        if other != adamw(clip, decay, settings):
            assert abs(other["a"] - expected["a"]) > 1e-3


@pytest.mark.parametrize("budget, rows", [(59, 4), (60, 6), (61, 6), (79, 6), (80, 8)])
def test_a_budget_may_be_spent_to_its_last_token(budget, rows):
    batches = plan_batches([10] * 20, TrainingSettings(batch_size=2, max_tokens=budget))
    assert sum(map(len, batches)) == rows


def test_batches_are_of_alike_lengths_within_a_window_of_eight():
    """Lengths 1 to 48, each once: a batch of three is three neighbours of its window of 24 rows."""
    settings = TrainingSettings(batch_size=3, seed=4)
    lengths = [(17 * i) % 48 + 1 for i in range(48)]
    assert sorted(lengths) == list(range(1, 49))
    batches, order = plan_batches(lengths, settings), seeded_order(48, 4, 0)
    for first, window in ((0, order[:24]), (8, order[24:])):
        by_length = sorted(window, key=lambda row: lengths[row])
        expected = [by_length[i : i + 3] for i in range(0, 24, 3)]
        found = batches[first : first + 8]
        assert sorted(found) == sorted(expected)
        assert found != expected  # shuffled: a run must not always see the short rows first
    assert len(batches) == 16


def test_rows_of_one_length_stand_in_the_order_of_their_numbers():
    """So that batches depend on the lengths and the seed alone."""
    (batch,) = plan_batches([5, 5, 5, 2], TrainingSettings(batch_size=4))
    assert batch == [3, 0, 1, 2]


def test_every_epoch_has_an_order_of_its_own():
    batches = plan_batches([1] * 12, TrainingSettings(batch_size=1, epochs=2))
    assert [b for (b,) in batches[:12]] != [b for (b,) in batches[12:]]


def test_the_rate_of_every_step_by_hand():
    """Ten steps, two of warm-up; then 1, and down by cosine over eight: at the middle (1 + 0.1) / 2."""
    settings = TrainingSettings(learning_rate=2.0, warmup_share=0.2)
    rates = [learning_rate(step, 10, settings) for step in range(10)]
    assert rates[:3] == pytest.approx([1.0, 2.0, 2.0])
    assert rates[6] == pytest.approx(1.1)
    assert rates[9] == pytest.approx(2 * (0.1 + 0.45 * (1 + math.cos(math.pi * 7 / 8))))
    # A single step without warm-up, and one that is all warm-up, are taken at the whole rate.
    assert (
        learning_rate(0, 1, settings)
        == learning_rate(0, 1, TrainingSettings(learning_rate=2.0, warmup_share=0.0))
        == 2.0
    )


def test_held_out_rows_are_looked_at_as_often_as_asked_and_at_the_end():
    x = torch.tensor([3.0], requires_grad=True)
    settings = TrainingSettings(learning_rate=0.1, batch_size=1, epochs=10, evaluations=4)
    history = fit(
        Trainable({"x": x}),
        TrainRows([7]),
        Objective(lambda *_: (x.sum(), {}), lambda: {"loss": x.item()}),
        settings,
    )
    assert [entry["step"] for entry in history.heldout] == [0, 2, 5, 8, 10]
    assert [entry["step"] for entry in history.train] == list(range(1, 11))
    assert (history.tokens, history.rows) == (70, 10)


def test_of_equal_held_out_losses_the_earliest_is_kept():
    x = torch.tensor([3.0], requires_grad=True)
    settings = TrainingSettings(learning_rate=0.1, batch_size=1, epochs=4, evaluations=4)
    losses = iter([5.0, 4.0, 4.0, 6.0, 4.0])
    kept = []

    def evaluate():
        kept.append(x.item())
        return {"loss": next(losses)}

    history = fit(
        Trainable({"x": x}), TrainRows([1]), Objective(lambda *_: (x.sum(), {}), evaluate), settings
    )
    assert history.best_step == 1 and x.item() == kept[1]
    assert history.stale_checks == 3


def test_what_a_loss_draws_follows_from_the_seed():
    """Dropout, say: the same whatever was drawn before."""

    def losses(before: int, seed: int) -> list[float]:
        torch.manual_seed(before)
        x = torch.tensor([3.0], requires_grad=True)
        settings = TrainingSettings(learning_rate=0.1, batch_size=1, epochs=3, seed=seed)
        history = fit(
            Trainable({"x": x}),
            TrainRows([1]),
            Objective(lambda *_: ((x * torch.rand(1)).sum(), {}), lambda: {"loss": 0.0}),
            settings,
        )
        return [entry["loss"] for entry in history.train]

    assert losses(1, 5) == losses(2, 5) != losses(2, 6)


def test_a_history_begins_with_nothing():
    """As it stands in the report of a compressor that is only adopted."""
    nothing = {"train": [], "heldout": [], "tokens": 0, "rows": 0, "best_step": 0, "ended": ""}
    assert History().as_dict() == nothing and History().stale_checks == 0


def test_the_file_of_a_failed_batch_holds_the_other_figures(tmp_path):
    """The loss is told in words; a figure that is no number is still a text."""
    x = torch.tensor([3.0], requires_grad=True)
    logs = {"reply": 2.5, "reconstruction": float("inf")}
    with pytest.raises(TrainingError, match="step 1: loss is inf"):
        fit(
            Trainable({"x": x}),
            TrainRows([1]),
            Objective(lambda *_: (x.sum() * float("inf"), logs), lambda: {"loss": 0.0}),
            TrainingSettings(),
            checkpoints=Checkpoints(tmp_path),
        )
    told = json.loads((tmp_path / FAILED_BATCH).read_text())
    assert told["logs"] == {"reply": "2.5", "reconstruction": "inf"}
    assert (told["step"], told["rows"], told["names"]) == (1, [0], [0])
