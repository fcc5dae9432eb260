"""Where models compute: the one rule of this project. Knows nothing of what is computed, or of who shares the machine."""

from __future__ import annotations

import torch


def best_device() -> torch.device:
    """The GPU where torch has one, else the CPU.

    Of several GPUs it is the current one: the first that this process sees (`CUDA_VISIBLE_DEVICES`), or that of its
    rank where processes train together.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
