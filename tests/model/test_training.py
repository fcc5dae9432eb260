"""The training loop: order, budget, learning_rate, best checkpoint, against AdamW and by hand."""

import json

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoints import Checkpoints
from model.settings import TrainingSettings
from model.training import (
    Objective,
    Trainable,
    TrainingError,
    TrainRows,
    fit,
    learning_rate,
    plan_batches,
    seeded_order,
)


def test_every_row_once_an_epoch():
    settings = TrainingSettings(batch_size=4, epochs=2)
    batches = plan_batches(list(range(1, 12)), settings)
    assert sorted(i for batch in batches for i in batch) == sorted(list(range(11)) * 2)
    assert batches == plan_batches(list(range(1, 12)), settings)
    assert batches != plan_batches(list(range(1, 12)), settings.model_copy(update={"seed": 1}))


def test_the_budget_is_kept_and_the_first_step_always_taken():
    lengths = [10] * 20
    batches = plan_batches(lengths, TrainingSettings(batch_size=2, max_tokens=65))
    assert sum(lengths[i] for batch in batches for i in batch) == 60
    assert len(plan_batches(lengths, TrainingSettings(batch_size=2, max_tokens=1))) == 1


def test_seeded_order_is_a_permutation_of_its_own():
    assert sorted(seeded_order(50, 0, 0)) == list(range(50))
    assert seeded_order(50, 0, 0) != seeded_order(50, 0, 1)


def test_rate_warms_up_and_falls_to_a_tenth():
    settings = TrainingSettings(learning_rate=1.0, warmup_share=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0) and 0.1 <= rates[-1] < 0.11
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_fit_equals_plain_adamw_and_keeps_the_best():
    settings = TrainingSettings(
        learning_rate=0.1, batch_size=1, epochs=6, warmup_share=0.0, gradient_clip=1e9
    )
    ours = torch.tensor([3.0], requires_grad=True)
    history = fit(
        Trainable({"x": ours}),
        TrainRows([1, 1]),
        Objective(lambda rows, _: (ours.square().sum(), {}), lambda: {"loss": ours.item() ** 2}),
        settings,
    )
    theirs = torch.tensor([3.0], requires_grad=True)
    optimizer = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.0)
    for step in range(12):
        optimizer.param_groups[0]["lr"] = learning_rate(step, 12, settings)
        optimizer.zero_grad()
        theirs.square().sum().backward()
        optimizer.step()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    assert history.best_step == 12 and history.rows == 12 and len(history.heldout) == 4


def test_fit_returns_to_the_best_step():
    # Training makes the held-out loss worse: the start is kept.
    x = torch.tensor([3.0], requires_grad=True)
    settings = TrainingSettings(learning_rate=0.1, batch_size=1, epochs=3)
    objective = Objective(lambda rows, _: (x.sum(), {}), lambda: {"loss": -x.item()})
    history = fit(Trainable({"x": x}), TrainRows([1]), objective, settings)
    assert x.item() == 3.0 and history.best_step == 0


def converging(patience: int | None, tmp_path=None, stop_at: int | None = None):
    """A training whose held-out loss falls to its fourth check and then stays; (history, weight, steps taken)."""
    x, taken = torch.tensor([3.0], requires_grad=True), []
    settings = TrainingSettings(
        learning_rate=0.1, batch_size=1, epochs=12, evaluations=12, warmup_share=0.0, patience=patience
    )

    def note(step, steps, logs):
        taken.append(step)
        if step == stop_at:
            raise Killed

    history = fit(
        Trainable({"x": x}),
        TrainRows([1]),
        Objective(lambda rows, _: (x.sum(), {}), lambda: {"loss": max(x.item(), 2.7)}),
        settings,
        progress=note,
        checkpoints=None if tmp_path is None else Checkpoints(tmp_path, 0.0),
    )
    return history, x.item(), taken


def test_training_ends_when_it_has_converged():
    whole, kept, taken = converging(None)
    assert whole.ended == "budget" and taken[-1] == 12
    early, same, fewer = converging(3)
    assert early.ended == "converged: 3 checks without improvement"
    assert fewer[-1] == early.best_step + 3 < 12
    assert early.best_step == whole.best_step and same == kept
    assert converging(12)[0].ended == "budget"


@pytest.mark.parametrize("before_the_end", [0, 1, 2])
def test_a_run_killed_near_convergence_ends_at_the_same_step(tmp_path, before_the_end):
    expected, kept, taken = converging(3)
    with pytest.raises(Killed):
        converging(3, tmp_path, taken[-1] - before_the_end)
    assert converging(3, tmp_path)[:2] == (expected, kept)
    # A run that was saved after its last step, and killed before its weights were, takes none.
    assert converging(3, tmp_path)[2] == []


def test_low_precision_weights_learn_from_steps_below_their_resolution():
    x = torch.tensor([1.0], dtype=torch.bfloat16, requires_grad=True)
    settings = TrainingSettings(learning_rate=1e-3, batch_size=1, epochs=50, warmup_share=0.0)
    objective = Objective(lambda rows, _: (x.float().sum(), {}), lambda: {"loss": x.item()})
    fit(Trainable({"x": x}), TrainRows([1]), objective, settings)
    assert x.item() < 0.98


def test_a_loss_that_is_not_finite_stops_training():
    x = torch.tensor([1.0], requires_grad=True)
    objective = Objective(lambda rows, _: (x.sum() * float("nan"), {}), lambda: {"loss": 1.0})
    with pytest.raises(TrainingError, match="step 1: loss is nan on rows"):
        fit(Trainable({"x": x}), TrainRows([1]), objective, TrainingSettings())


@pytest.mark.parametrize("broken", ["nan", "inf"])
@pytest.mark.parametrize("at", [0, 4])
def test_a_heldout_loss_that_is_not_finite_stops_training(tmp_path, broken, at):
    """Also when the run goes on from the checkpoint before it: the check is not passed over."""
    x, taken = torch.tensor([1.0], requires_grad=True), []

    def loss(rows, whole):
        taken.append(rows)
        return x.sum(), {}

    def evaluate():
        return {"loss": float(broken) if len(taken) == at else 1.0}

    settings = TrainingSettings(learning_rate=0.1, batch_size=1, epochs=6)
    for _ in range(2):
        with pytest.raises(TrainingError, match=f"step {at}: held-out loss is {broken}; look at"):
            fit(
                Trainable({"x": x}),
                TrainRows([1]),
                Objective(loss, evaluate),
                settings,
                checkpoints=Checkpoints(tmp_path, 0.0),
            )
        del taken[at - 1 :]


@pytest.mark.parametrize("fault", ["loss", "gradient"])
def test_the_batch_that_broke_training_is_named_and_saved(tmp_path, fault):
    """The state before it is kept, and the run that goes on from there meets the same batch at once."""
    settings = TrainingSettings(learning_rate=0.2, batch_size=3)
    trainable, rows, objective = regression()
    bad = plan_batches([1] * 16, settings)[3]

    def breaks(rows, whole):
        value, logs = objective.loss(rows, whole)
        if rows == bad and fault == "loss":
            value = value * float("inf")
        if rows == bad and fault == "gradient":
            value.register_hook(lambda g: g * float("nan"))
        return value, logs

    names = [f"meld/train/{i}" for i in range(16)]
    what = "loss is inf" if fault == "loss" else "the gradient's norm is nan"
    told = f"step 4: {what} on rows {', '.join(names[i] for i in bad)}; saved in "
    ran: list[int] = []

    def note(step, *_):
        ran.append(step)

    for steps in ([1, 2, 3], []):
        ran.clear()
        with pytest.raises(TrainingError, match=told):
            fit(
                trainable,
                TrainRows(rows.lengths, names),
                Objective(breaks, objective.evaluate),
                settings,
                progress=note,
                checkpoints=Checkpoints(tmp_path),
            )
        assert ran == steps
    assert json.loads((tmp_path / "failed-batch.json").read_text())["rows"] == bad
    assert all(torch.isfinite(p).all() for p in trainable.parameters.values())


class Killed(BaseException):
    """Stands for a kill: nothing of `fit` runs after it."""


def regression(dtype: torch.dtype = torch.float32) -> tuple[Trainable, TrainRows, Objective]:
    """A small problem with adapters' traits: several tensors, low precision, a held-out loss that turns."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(24, 6, generator=generator)
    targets = inputs @ torch.randn(6, 1, generator=generator) + 0.3 * torch.randn(24, 1, generator=generator)
    parameters = {
        "weight": torch.zeros(6, 1, dtype=dtype, requires_grad=True),
        "bias": torch.zeros(1, dtype=dtype, requires_grad=True),
    }

    def loss(rows, whole):
        guess = inputs[rows].to(dtype) @ parameters["weight"] + parameters["bias"]
        return (guess.float() - targets[rows]).square().sum() / len(whole), {"rows": float(len(rows))}

    held_out = list(range(16, 24))
    objective = Objective(loss, lambda: {"loss": loss(held_out, held_out)[0].item()})
    return Trainable(parameters), TrainRows([1] * 16), objective


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("killed_at", [1, 7, 8, 19])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, dtype, accumulation, killed_at):
    settings = TrainingSettings(
        learning_rate=0.2, batch_size=3, epochs=4, weight_decay=0.1, accumulation=accumulation
    )
    whole = regression(dtype)
    expected = fit(*whole, settings)

    def kill(step, steps, logs):
        if step == killed_at:
            raise Killed

    with pytest.raises(Killed):
        fit(*regression(dtype), settings, progress=kill, checkpoints=Checkpoints(tmp_path, 0.0))
    ran, again = [], regression(dtype)
    history = fit(
        *again, settings, progress=lambda step, *_: ran.append(step), checkpoints=Checkpoints(tmp_path)
    )
    # The step that was told last had not been saved yet.
    assert ran == list(range(killed_at, 25))
    assert history == expected
    for name, value in whole[0].parameters.items():
        assert torch.equal(again[0].parameters[name], value)


def test_a_damaged_checkpoint_starts_training_again(tmp_path, capsys):
    settings = TrainingSettings(learning_rate=0.2, batch_size=3)
    whole = regression()
    fit(*whole, settings, checkpoints=Checkpoints(tmp_path, 0.0))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:200])
    again = regression()
    history = fit(*again, settings, checkpoints=Checkpoints(tmp_path))
    assert len(history.train) == 6
    assert torch.equal(again[0].parameters["weight"], whole[0].parameters["weight"])
    assert "damaged" in capsys.readouterr().err


def test_no_bit_of_a_checkpoint_can_flip_unseen(tmp_path, capsys):
    """Every bit of a small one: tensors, facts, header, and the check itself."""
    checkpoints = Checkpoints(tmp_path)
    tensors = {"b": torch.arange(5.0), "a": torch.ones(3, dtype=torch.bfloat16)}
    facts = {"said": '"check":"x', "step": 3}
    checkpoints.save(tensors, facts)
    whole = checkpoints.path.read_bytes()
    found, told = checkpoints.load()
    assert told == facts and all(torch.equal(found[name], tensors[name]) for name in tensors)
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        checkpoints.path.write_bytes(data)
        assert checkpoints.load() is None, bit
    assert "damaged" in capsys.readouterr().err


def test_a_checkpoint_from_before_checks_is_gone_on_from(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "step.safetensors", {"facts": '{"step": 3}', "basis": "{}"})
    tensors, facts = Checkpoints(tmp_path).load()
    assert torch.equal(tensors["a"], torch.ones(3)) and facts == {"step": 3}


@pytest.mark.parametrize(
    "change, told",
    [
        ({"master/weight": None}, r"missing: master/weight; remove"),
        ({"exp_avg/bias": None, "step/bias": None}, r"missing: exp_avg/bias, step/bias; remove"),
        ({"best/weight": torch.zeros(7, 1)}, r"of another shape: best/weight \[7, 1\] for \[6, 1\]; remove"),
        ({"master/gate": torch.zeros(2)}, r"unknown: master/gate; remove"),
        ({"history": None}, r"missing: history; remove"),
    ],
)
def test_a_partial_or_foreign_checkpoint_names_what_differs(tmp_path, change, told):
    settings = TrainingSettings(learning_rate=0.2, batch_size=3)
    fit(*regression(), settings, checkpoints=Checkpoints(tmp_path, 0.0))
    tensors, facts = Checkpoints(tmp_path).load()
    tensors, facts = (
        {name: value for name, value in {**part, **change}.items() if value is not None and name in known}
        for part, known in ((tensors, {*tensors, "master/gate"}), (facts, facts))
    )
    Checkpoints(tmp_path).save(tensors, facts)
    with pytest.raises(TrainingError, match=f"step.safetensors: partial, or of another training: {told}"):
        fit(*regression(), settings, checkpoints=Checkpoints(tmp_path))


@pytest.mark.parametrize("accumulation", [2, 3, 5, 9])
def test_a_step_in_parts_is_the_same_step(accumulation):
    """Parts of unlike size (5 rows in 2, 3; a last batch of one row), and more parts than rows."""
    runs = []
    for parts in (1, accumulation):
        settings = TrainingSettings(learning_rate=0.2, batch_size=5, epochs=3, accumulation=parts)
        trainable, all_rows, objective = regression()
        calls: list[int] = []

        def counted(rows, whole, loss=objective.loss, calls=calls):
            calls.append(len(rows))
            return loss(rows, whole)

        history = fit(trainable, all_rows, Objective(counted, objective.evaluate), settings)
        runs.append((history, trainable.parameters, calls))
    (whole, expected, once), (history, parameters, often) = runs
    assert len(often) > len(once) and max(often) == -(-5 // accumulation) and sum(often) == sum(once) == 48
    for name in ("train", "heldout"):
        for step, wanted in zip(getattr(history, name), getattr(whole, name), strict=True):
            assert step == pytest.approx(wanted, rel=1e-5)
    for name, value in expected.items():
        assert torch.allclose(parameters[name], value, rtol=1e-5, atol=1e-7)
