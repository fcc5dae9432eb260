"""The process that trains the compressor finds its own scan, and does not go on by the slow one where that is refused.

No machine of the tests has a GPU: that this process had one is made up here, and its kernels fail by themselves.
"""

import pytest
import torch

from model.compressor.settings import CompressorSettings
from storage.errors import InputError
from storage.store import Store
from tasks.engine.declaration import Weights
from tasks.engine.item import Item, Workspace
from tasks.settings import load_settings
from tasks.stages.compressor import fit
from tasks.stages.compressor.stage import FINETUNE, PRETRAIN

LLM = Weights(name="there-is-no-such-llm", identity="none")


@pytest.fixture
def work(tmp_path):
    return Workspace(Store(tmp_path / "store"), None, "basis", lambda *_: None)


def trained(work: Workspace, **allowed: bool):
    """Calls of both stages' functions, which end where they look for what they were given."""
    settings = CompressorSettings()
    yield lambda: fit.pretrain_compressor([], settings, None, LLM, work, **allowed)
    yield lambda: fit.finetune_compressor([], None, settings, LLM, work, **allowed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's kernels scan")
def test_a_training_that_is_left_with_the_slow_scan_is_one_line(monkeypatch, work):
    monkeypatch.setattr(fit, "best_device", lambda: torch.device("cuda"))
    for training in trained(work, allow_slow_scan=False):
        with pytest.raises(InputError) as refused:
            training()
        line = str(refused.value)
        assert line.startswith("selective scan: step by step (mamba-ssm: ") and "\n" not in line
        assert "run.allow_slow_scan=true" in line and "make setup-gpu" in line
    for training in trained(work, allow_slow_scan=True):
        with pytest.raises(Exception) as other:  # noqa: B017  whatever comes next: it went on
            training()
        assert "selective scan" not in str(other.value)


def test_a_cpu_is_never_refused(work):
    for training in trained(work, allow_slow_scan=False):
        with pytest.raises(Exception) as other:  # noqa: B017
            training()
        assert "selective scan" not in str(other.value)


@pytest.mark.parametrize("stage", [PRETRAIN, FINETUNE], ids=lambda stage: stage.name)
def test_the_setting_reaches_the_item_and_no_key(monkeypatch, stage):
    monkeypatch.setattr("tasks.engine.declaration.named_weights", lambda name: LLM)
    found = {}
    for allowed in (False, True):
        settings = load_settings("paper", [f"run.allow_slow_scan={str(allowed).lower()}"])
        arguments = stage.declared_arguments(settings)
        assert arguments["allow_slow_scan"] is allowed
        found[allowed] = Item(stage, "all", arguments, tuple(stage.without_effect(settings))).key()
    assert found[False] == found[True]
