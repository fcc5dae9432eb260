"""How a local folder of pretrained weights is opened: offline, whole, and without running code that it brings.

The one place that calls `from_pretrained` for models, tokenizers and front ends. Knows nothing of what they are for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.weights import named


def from_folder(kind: Any, folder: str | Path, **options: Any) -> Any:
    """`kind.from_pretrained(folder)`, from local files alone.

    A folder may name Python files of its own (`auto_map`): they are never run, and nobody is asked whether they
    should be. ValueError where there is no other way to load it.
    """
    try:
        return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{folder}: it asks to run Python code of its own (auto_map in its config), which is not done; give a "
            "model of a kind that transformers has built in"
        ) from None


def whole_model(kind: Any, folder: str | Path, **options: Any) -> nn.Module:
    """The model of a folder, every tensor of it read: what is absent would be drawn at random instead.

    ValueError names weights that are missing or of another shape. A checkpoint may hold more than the model, and a
    head that is tied to the embeddings needs no weights of its own.
    """
    model, loading = from_folder(
        kind, folder, output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True, **options
    )
    wrong = named(
        {
            "missing": sorted(loading["missing_keys"]),
            "of another shape": sorted(
                f"{name} {list(found)} for {list(wanted)}"
                for name, found, wanted in loading["mismatched_keys"]
            ),
        }
    )
    if wrong:
        raise ValueError(f"{folder}: the model's weights are not whole ({wrong}); resolve them again")
    return model


def in_dtype(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network with all that its folder stores in `dtype`, as if it had been loaded so.

    What a network computes for itself keeps its precision: frequencies of rotary positions, rounded to bfloat16, turn the
    thousandth token of Qwen2.5 by up to 1.2 radians too far.
    """
    stored = network.state_dict().keys()
    computed = {name: buffer for name, buffer in network.named_buffers() if name not in stored}
    network.to(dtype)
    for name, buffer in computed.items():
        owner, _, own_name = name.rpartition(".")
        network.get_submodule(owner).register_buffer(own_name, buffer, persistent=False)
    return network
