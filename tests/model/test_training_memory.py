"""What training is said to need, against what it is seen to take, and what it says where that is too much."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from model.settings import TrainingSettings
from model.training import Objective, Trainable, TrainingError, TrainRows, fit
from model.training_memory import estimate, free_memory

ROOT = Path(__file__).resolve().parents[2]
WIDTH, LAYERS, TOKENS = 512, 12, 512
FACTOR = 1.5
"""Largest ratio of estimate and peak, either way; what is not counted is temporary."""


def problem(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module, dict, callable]:
    """A frozen and a trained stack of layers; rows of TOKENS tokens."""
    torch.manual_seed(0)
    frozen, trained = (
        nn.Sequential(*(m for _ in range(LAYERS) for m in (nn.Linear(WIDTH, WIDTH), nn.GELU()))).to(dtype)
        for _ in range(2)
    )
    frozen.requires_grad_(False)

    def loss(rows, whole):
        inputs = torch.ones(TOKENS * len(rows), WIDTH, dtype=dtype)
        return frozen(trained(inputs)).float().square().sum() / (TOKENS * len(whole)), {}

    return frozen, trained, dict(trained.named_parameters()), loss


def train(settings: TrainingSettings, limit: int | None = None, rows: int = 4) -> None:
    frozen, trained, parameters, loss = problem()
    fit(
        Trainable(parameters, [frozen, trained], limit),
        TrainRows([TOKENS] * rows),
        Objective(loss, lambda: {"loss": 0.0}),
        settings,
    )


def test_what_follows_from_the_weights_is_counted_by_hand():
    frozen, trained, parameters, _ = problem(torch.bfloat16)
    count = LAYERS * (WIDTH * WIDTH + WIDTH)
    needed = estimate(parameters, [frozen, trained], accumulation=1)
    assert needed.frozen_weights == needed.trained_weights == needed.best_copy == 2 * count
    assert needed.fp32_masters == 4 * count and needed.adam_moments == 8 * count
    assert needed.gradients == 4 * count + 2 * count
    assert needed.to_come == needed.total - 4 * count


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_estimate_is_near_the_measured_peak(accumulation):
    """In a process of its own that gives back at once what it frees: 13 MB of weights, twice."""
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout, format='%(message)s');"
        "import torch; torch.set_num_threads(1);"
        "from model.settings import TrainingSettings;"
        "from benchmarks.peak import forget_peak, peak_mb; from tests.model.test_training_memory import train;"
        "train(TrainingSettings(batch_size=1), rows=1); before = forget_peak();"
        f"train(TrainingSettings(batch_size=4, accumulation={accumulation}));"
        "print(peak_mb() - before)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    *_, line, peak = done.stdout.strip().splitlines()
    own, weights = (
        float(part.split(" MB")[0]) for part in (line.split("needs ")[1], line.split("beside ")[1])
    )
    told = own + weights
    measured = float(peak) * 1.048576
    assert told / FACTOR < measured < told * FACTOR, line


def test_what_cannot_fit_is_refused_and_what_fits_is_one_line(caplog):
    """Without room for the optimizer at once; without room for the activations once they are known."""
    caplog.set_level(logging.INFO)
    settings = TrainingSettings(batch_size=4)
    for limit, known in ((10_000_000, "on top"), (150_000_000, "activations")):
        caplog.clear()
        with pytest.raises(
            TrainingError,
            match="cannot fit: a smaller batch_size, a larger accumulation or activation_checkpointing",
        ) as told:
            train(settings, limit)
        assert known in str(told.value) and not caplog.messages
    train(settings.model_copy(update={"accumulation": 4}), 150_000_000)
    (line,) = caplog.messages
    assert line.startswith("needs ") and line.endswith("150 MB are free")


def test_free_memory_is_the_machines(monkeypatch, tmp_path):
    free = free_memory(torch.device("cpu"))
    assert 0 < free <= psutil.virtual_memory().total + psutil.swap_memory().total
    files = {
        "memory.max": "3000",
        "memory.current": "2500",
        "memory.stat": "active_file 100\ninactive_file 400\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("model.host_memory.CGROUP", tmp_path)
    assert free_memory(torch.device("cpu")) == 1000
    assert free_memory(torch.device("cpu"), 2) == 500  # of what does not move between two looks
