"""A step is the same however it is computed: in parts, and in two processes that talk over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.processes import Processes
from tests.support.trainings import READ, TRAININGS

ROOT = Path(__file__).resolve().parents[2]
LOSS = 1e-5
"""Largest relative difference of a loss: the sums are the same, the order of their terms is not."""
WEIGHT = 1e-4
"""Of a weight: Adam divides by the root of a gradient's square, where rounding counts for most in the smallest."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The trainings in one process, each step in one part."""
    folder = tmp_path_factory.mktemp("whole")
    READ.clear()
    for name, train in TRAININGS.items():
        train(folder / name)
    (folder / "read").write_text(str(READ["features"]))
    return folder


def assert_same_training(found: Path, expected: Path) -> None:
    """The history of every loss and figure, and the weights that were kept."""
    histories = [json.loads((folder / "report.json").read_text())["history"] for folder in (found, expected)]
    for part in ("train", "heldout"):
        steps, wanted = (history[part] for history in histories)
        assert len(steps) == len(wanted) and all("loss" in step for step in steps)
        for step, other in zip(steps, wanted, strict=True):
            assert step == pytest.approx(other, rel=LOSS, abs=1e-6), (found.name, part)
    (file,) = expected.glob("*model.safetensors")
    weights, others = load_file(found / file.name), load_file(file)
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=WEIGHT, atol=1e-5, msg=f"{found.name} {name}")


@pytest.mark.parametrize("name", TRAININGS)
def test_a_step_in_parts_is_the_step_of_the_large_batch(name, whole, tmp_path):
    TRAININGS[name](tmp_path / name, accumulation=3)
    assert_same_training(tmp_path / name, whole / name)


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Path:
    """The trainings in two real processes, by accelerate's launcher: with the LLM in shards, then whole in each."""
    folder = tmp_path_factory.mktemp("launched")
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes=2"]
    configuration = str(ROOT / "deployments" / "accelerate" / "fsdp.yaml")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launch, "--config_file", configuration, "--module", "tests.support.trainings", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("form", ["plain", "sharded"])
@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_take_the_steps_of_one(name, form, whole, launched):
    """And both end with the same bytes."""
    main, other = (launched / form / number / name for number in ("0", "1"))
    assert_same_training(main, whole / name)
    for file in (path for path in main.rglob("*") if path.is_file()):
        assert file.read_bytes() == (other / file.relative_to(main)).read_bytes(), file


def test_layers_in_shards_may_be_computed_again(whole, launched):
    assert_same_training(launched / "recomputed" / "0" / "dialogue", whole / "dialogue")


@pytest.mark.parametrize("form", ["plain", "sharded"])
def test_each_process_reads_its_share_of_the_features(form, whole, launched):
    """In training, in what is measured of held-out rows, and for the card."""
    alone = int((whole / "read").read_text())
    shares = [int((launched / form / f"read-{number}").read_text()) for number in (0, 1)]
    # Where rows do not go round, and of the one batch of held-out rows here, a process runs what is another's in vain.
    assert alone <= sum(shares) < 1.4 * alone and max(shares) < 0.75 * alone, (alone, shares)


def test_what_is_dealt_out_comes_back_in_order():
    """As two processes have it: each is told the other's answers by `gathered`."""
    asked: list[list[int]] = []

    class One(Processes):
        count = 2

        def __init__(self, index: int):
            self.index = index
            asked.append([])

        def gathered(self, facts: dict) -> list[dict]:
            given.append(json.loads(json.dumps(facts)))
            return given if self.index else [facts, facts]

    given: list[dict] = []
    for index in (0, 1):
        if index:
            found = One(1).dealt([5, 6, 7], lambda item: asked[-1].append(item) or [item, 0.1])
        else:
            with pytest.raises(KeyError):  # the other has not said its part yet
                One(0).dealt([5, 6, 7], lambda item: asked[-1].append(item) or [item, 0.1])
    assert found == [[5, 0.1], [6, 0.1], [7, 0.1]]
    assert asked == [[5, 7], [6, 5]]  # as often, the last one in vain
    assert Processes().dealt([1, 2], lambda item: -item) == [-1, -2]


def test_a_process_alone_has_every_row():
    alone = Processes()
    assert (alone.count, alone.is_main) == (1, True)
    assert alone.parts([5, 6, 7, 8, 9], 1) == [[5, 6, 7, 8, 9]]
    assert alone.parts([5, 6, 7, 8, 9], 2) == [[5, 6], [7, 8, 9]]
    assert alone.parts([5], 4) == [[5]]
