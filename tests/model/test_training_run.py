"""The frame around the loop: the held-out rows before and after, also of a run that was cut off, and what is written."""

import json

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoints import Checkpoints
from model.settings import TrainingSettings
from model.training import Trainable, TrainRows
from model.training_run import Check, Outcome, run_training, use_threads, write_results

SETTINGS = TrainingSettings(learning_rate=0.5, batch_size=1, epochs=8, evaluations=8, warmup_share=0.0)


def training(progress=None, checkpoints=None) -> tuple[Outcome, torch.Tensor, int]:
    """x falls from 3 towards -1 past its best held-out point, 1; (outcome, x in the end, how often it was checked)."""
    x, checked = torch.tensor([3.0], requires_grad=True), []

    def check() -> Check:
        checked.append(x.item())
        rows = [abs(x.item() - 1.0), x.item()]
        return Check({"loss": rows[0]}, rows)

    outcome = run_training(
        Trainable({"x": x}),
        TrainRows([1]),
        lambda *_: ((x + 1).square().sum(), {}),
        check,
        SETTINGS,
        progress=progress,
        checkpoints=checkpoints,
    )
    return outcome, x, len(checked)


def test_the_rows_are_those_of_the_start_and_of_the_step_that_was_kept():
    outcome, x, checked = training()
    assert outcome.rows_before == [2.0, 3.0]
    assert 0 < outcome.history.best_step < 8 and checked == 9
    assert outcome.rows_after == [abs(x.item() - 1.0), x.item()]
    assert outcome.history.first_check == {"step": 0, "loss": 2.0}
    best = {"step": outcome.history.best_step, "loss": outcome.rows_after[0]}
    assert outcome.history.best_check == best


@pytest.mark.parametrize("killed_at", [1, 7])
def test_a_run_that_was_cut_off_has_the_same_rows(tmp_path, killed_at):
    """Before and after the best step: what was checked before the kill is measured again."""
    expected, _, _ = training()
    assert 1 < expected.history.best_step < 7

    def kill(step, *_):
        if step == killed_at + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training(kill, Checkpoints(tmp_path, 0.0))
    again, _, _ = training(None, Checkpoints(tmp_path, 0.0))
    assert again == expected


def test_what_is_written(tmp_path):
    outcome, x, _ = training()
    save_file({"x": x.detach()}, tmp_path / "model.safetensors")
    report = {"rows": 1, **outcome.report(["a", "a"], before=outcome.rows_before, after=outcome.rows_after)}
    write_results(tmp_path, report, {}, {"train": ["one"]}, SETTINGS, outcome.history)
    told = json.loads((tmp_path / "report.json").read_text())
    assert told == json.loads(json.dumps(report))
    assert set(told) == {"rows", "heldout_before", "heldout_after", "compared", "history"}
    assert told["compared"]["dialogue"] == [0, 0] and told["compared"]["before"] == [2.0, 3.0]
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["heldout_before"] == told["heldout_before"] and card["heldout_after"] == told["heldout_after"]
    assert card["steps"] == 8 and set(card["files"]) == {"model.safetensors"}


def test_threads_are_set_where_they_are_asked_for():
    before = torch.get_num_threads()
    try:
        use_threads(SETTINGS)
        assert torch.get_num_threads() == before
        use_threads(TrainingSettings(threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
