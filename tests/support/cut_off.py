"""A training that is cut off half way and goes on: what its report must say then."""

from collections.abc import Callable
from pathlib import Path

import pytest

from model.checkpoints import Checkpoints
from model.training import Progress

Train = Callable[[Path, Progress | None, Checkpoints | None], dict]
"""train(out, progress, checkpoints) -> the report; of one seed, whatever is in `out`."""


def assert_goes_on_as_if_never_cut_off(train: Train, folder: Path) -> None:
    """The run that goes on ends at the step where the whole one does, and compares the same rows.

    It is cut off after the middle, so the first check, and maybe the best, were the first run's.
    """

    def cut_off(step: int, steps: int, _: dict) -> None:
        if step == steps // 2 + 1:
            raise KeyboardInterrupt

    whole = train(folder / "whole", None, None)
    with pytest.raises(KeyboardInterrupt):
        train(folder / "cut", cut_off, Checkpoints(folder / "scratch", 0))
    again = train(folder / "cut", None, Checkpoints(folder / "scratch", 0))
    assert again["history"]["best_step"] == whole["history"]["best_step"] > 0
    for name, values in whole["compared"].items():
        for value, wanted in zip(again["compared"][name], values, strict=True):
            assert value == (None if wanted is None else pytest.approx(wanted, abs=1e-4)), name
