"""How much of a GPU vLLM asks for, by hand: Qwen2.5-7B's files and the paper profile's cache on cards of three sizes."""

import os
import sys

import pytest

from model.generation.client import child_environment
from model.generation.memory_share import memory_share, weight_bytes
from model.generation.settings import EngineArgs
from model.generation.vllm_settings import VllmSettings
from tasks.settings import load_settings

PAPER = load_settings("paper").candidates.engine_args
QWEN = 15_231_233_024


@pytest.mark.parametrize(
    ("total", "share"), [(85e9, (15.23 + 17.18 + 4) / 85), (48e9, (15.23 + 17.18 + 4) / 48), (24e9, 0.92)]
)
def test_it_fits_the_weights_the_cache_and_a_step(total, share):
    assert memory_share(PAPER, QWEN, int(total)) == pytest.approx(share, abs=1e-3)


def test_what_the_settings_say_goes_first_and_without_a_cache_vllm_decides():
    said = PAPER.model_copy(update={"gpu_memory_utilization": 0.5})
    assert memory_share(said, QWEN, int(85e9)) == 0.5
    assert memory_share(EngineArgs(kv_cache_memory_bytes=None), QWEN, int(85e9)) is None


def test_gpus_that_share_a_model_each_hold_a_part_of_it():
    two = PAPER.model_copy(update={"tensor_parallel_size": 2})
    assert memory_share(two, QWEN, int(85e9)) == pytest.approx((15.23 / 2 + 17.18 + 4) / 85, abs=1e-3)


def test_the_paper_profile_lets_vllm_capture_graphs():
    assert PAPER.enforce_eager is False and PAPER.tensor_parallel_size == 1


def test_graphs_are_what_a_gpu_has_unless_they_are_refused():
    for asked in (EngineArgs(), VllmSettings().engine_args("bfloat16", 2048)):
        assert asked.is_eager(on_cpu=True) and not asked.is_eager(on_cpu=False)
    for said in (True, False):
        args = EngineArgs(enforce_eager=said)
        assert args.is_eager(on_cpu=True) is args.is_eager(on_cpu=False) is said


def test_weights_are_those_of_the_folder(tmp_path):
    (tmp_path / "model-00001.safetensors").write_bytes(bytes(70))
    (tmp_path / "model-00002.safetensors").write_bytes(bytes(30))
    (tmp_path / "config.json").write_bytes(bytes(9))
    assert weight_bytes(tmp_path) == 100


def test_the_engines_process_finds_what_the_environment_has_and_forks_none_that_has_looked_for_a_gpu():
    environment = child_environment(None)
    assert environment["PATH"].split(os.pathsep)[0] == os.path.dirname(sys.executable)
    assert environment["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
