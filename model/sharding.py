"""A frozen LLM held in shards by the processes that train together (FSDP2), where accelerate was launched so.

Each decoder layer's weights are dealt out over the processes and put together for the time the layer computes, one
layer at a time; embeddings, head and what is trained (adapters are added afterwards) stay whole in each. So all must
run the LLM equally often. Knows nothing of losses or of who launched what.
"""

from __future__ import annotations

import os

import torch
from torch import nn

FSDP_VARIABLE = "ACCELERATE_USE_FSDP"
"""What accelerate's launcher sets where its configuration says FSDP."""


def shard_if_configured(llm: nn.Module, layers: nn.ModuleList) -> nn.Module:
    """The same LLM, its decoder `layers` in shards if accelerate's configuration asks for them.

    Of the configuration's fsdp_config, `fsdp_reshard_after_forward` is followed. ValueError names what it asks for
    beyond that and a frozen LLM cannot have.
    """
    if os.environ.get(FSDP_VARIABLE, "false").lower() != "true":
        return llm
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    from model.processes import Processes

    plugin = FullyShardedDataParallelPlugin()
    configured = {
        "a version other than 2": plugin.fsdp_version != 2,
        "fsdp_offload_params": isinstance(plugin.cpu_offload, CPUOffloadPolicy),
        "fsdp_activation_checkpointing": plugin.activation_checkpointing,
        "fsdp_cpu_ram_efficient_loading": plugin.cpu_ram_efficient_loading,
    }
    refused = ", ".join(name for name, is_set in configured.items() if is_set)
    if refused:
        raise ValueError(f"accelerate's fsdp_config asks for {refused}; see deployments/accelerate/fsdp.yaml")
    processes = Processes()
    mesh = init_device_mesh(processes.state.device.type, (processes.count,))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=plugin.reshard_after_forward)
    return llm


def is_sharded(layers: nn.ModuleList) -> bool:
    """Whether `shard_if_asked` has dealt these layers out."""
    return any(isinstance(layer, torch.distributed.fsdp.FSDPModule) for layer in layers)
