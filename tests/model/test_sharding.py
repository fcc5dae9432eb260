"""The project's accelerate configuration, read by accelerate itself, and what of such a file is refused."""

import argparse
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import (
    _validate_launch_command,
    launch_command_parser,
    prepare_multi_gpu_env,
)
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from model.llm import load_llm
from model.zoo.resolve import resolve
from tasks.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = "deployments/accelerate/fsdp.yaml"


def launched_environment(**changes) -> dict[str, str]:
    """What accelerate's launcher gives its processes for the project's file, with other values in fsdp_config."""
    configuration = ROOT / CONFIGURATION
    parsed = launch_command_parser().parse_args(["--config_file", str(configuration), "script.py"])
    arguments, _, _ = _validate_launch_command(parsed)
    values = vars(arguments) | changes
    return prepare_multi_gpu_env(argparse.Namespace(**values))


def test_accelerate_reads_the_projects_file(monkeypatch):
    loaded = load_config_from_file(str(ROOT / CONFIGURATION))
    assert loaded.distributed_type == DistributedType.FSDP and loaded.num_machines == 1
    for name, value in launched_environment().items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    # By itself the paper profile keeps the 7B whole on every GPU; shards are a setting.
    assert load_settings("paper").run.launch_config is None
    asked = load_settings("paper", ["run.processes=4", f"run.launch_config={CONFIGURATION}"])
    assert (asked.run.processes, asked.run.launch_config) == (4, CONFIGURATION)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {
                "fsdp_version": 1,
                "fsdp_reshard_after_forward": "FULL_SHARD",
                "fsdp_sync_module_states": "false",  # accelerate itself wants a GPU for it
            },
            "a version other than 2",
        ),
        ({"fsdp_offload_params": "true"}, "fsdp_offload_params"),
        ({"fsdp_activation_checkpointing": "true"}, "fsdp_activation_checkpointing"),
    ],
)
def test_what_is_not_followed_is_refused_by_name(monkeypatch, changes, named):
    for name, value in launched_environment(**changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"asks for {named}; see deployments"):
        load_llm(resolve("tiny-llm"), "float32")
