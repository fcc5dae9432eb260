"""Hub checkpoints that come as `pytorch_model.bin` only: read once as plain tensors, written as safetensors.

Knows nothing of downloads or caches.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from model.zoo.errors import ZooError


def convert_bin(snapshot: Path, target: Path) -> None:
    """Write `model.safetensors` to `target` from the .bin files of `snapshot`; ZooError when there are none."""
    parts = sorted(snapshot.glob("pytorch_model*.bin"))
    if not parts:
        raise ZooError(f"{snapshot}: neither *.safetensors nor pytorch_model*.bin; name another revision")
    tensors: dict[str, torch.Tensor] = {}
    for part in parts:
        tensors |= torch.load(part, map_location="cpu", weights_only=True)
    # Tied tensors share memory, which safetensors refuses: each name gets its own copy.
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in sorted(tensors.items())},
        target / "model.safetensors",
        metadata={"format": "pt"},
    )
