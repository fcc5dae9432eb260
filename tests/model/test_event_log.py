"""The curves that TensorBoard shows are the history of the run, also of one that was killed and went on."""

import pytest

from model.checkpoints import Checkpoints
from model.settings import TrainingSettings
from model.training import fit, learning_rate
from tests.model.test_training import Killed, regression
from tests.support.events import scalars

SETTINGS = TrainingSettings(learning_rate=0.2, batch_size=3, epochs=2)


@pytest.mark.parametrize("killed_at", [None, 5])
def test_the_event_file_holds_the_history(tmp_path, killed_at):
    checkpoints = Checkpoints(tmp_path / "scratch", 0.0, tmp_path / "curves")
    if killed_at is not None:

        def kill(step, *_):
            if step == killed_at:
                raise Killed

        with pytest.raises(Killed):
            fit(*regression(), SETTINGS, progress=kill, checkpoints=checkpoints)
    history = fit(*regression(), SETTINGS, checkpoints=checkpoints)
    found = scalars(tmp_path / "curves")
    for group in ("train", "heldout"):
        for entry in getattr(history, group):
            for name, value in entry.items():
                if name != "step":
                    assert found[f"{group}/{name}"][entry["step"]] == pytest.approx(value, rel=1e-6)
    steps = list(range(1, len(history.train) + 1))
    assert sorted(found["train/rows"]) == sorted(found["train/loss"]) == steps
    assert sorted(found["heldout/loss"]) == [entry["step"] for entry in history.heldout]
    rates = [learning_rate(step - 1, len(steps), SETTINGS) for step in steps]
    assert [found["train/learning_rate"][step] for step in steps] == pytest.approx(rates, rel=1e-6)
    assert set(found) == {"train/loss", "train/rows", "train/learning_rate", "heldout/loss"}


def test_no_folder_no_file(tmp_path):
    fit(*regression(), SETTINGS, checkpoints=Checkpoints(tmp_path))
    assert not list(tmp_path.rglob("events*"))
