"""Mini-Xception as a frame encoder: a face in grey becomes 16 tokens of width 128.

Trained on FER2013 to tell seven facial expressions; Arriaga, Valdenegro-Toro and Plöger, "Real-time Convolutional
Neural Networks for Emotion and Gender Classification", 2017. Padding and batch-norm constants are Keras's. It looks at
the frame as a whole: it was trained on faces that fill the picture, and finds none. Knows nothing of video.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 64
TOKENS = 16
WIDTH = 128
BLOCKS = (16, 32, 64, 128)
EXPRESSIONS = ("angry", "disgust", "fearful", "happy", "sad", "surprise", "neutral")
"""What the seven outputs of the classifier stand for."""
NORM_EPSILON = 1e-3


class Separable(nn.Module):
    """A 3 x 3 convolution a channel, then a mix of the channels, normalised."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.depthwise = nn.Conv2d(inside, inside, 3, padding=1, groups=inside, bias=False)
        self.pointwise = nn.Conv2d(inside, outside, 1, bias=False)
        self.norm = nn.BatchNorm2d(outside, eps=NORM_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.pointwise(self.depthwise(x)))


class Block(nn.Module):
    """Two separable convolutions at half the size, beside a shortcut."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.shortcut = nn.Conv2d(inside, outside, 1, stride=2, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(outside, eps=NORM_EPSILON)
        self.first, self.second = Separable(inside, outside), Separable(outside, outside)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.second(F.relu(self.first(x)))
        # Keras pads a pooling of odd reach on the right and below first.
        missing = max((-(-deep.shape[-1] // 2) - 1) * 2 + 3 - deep.shape[-1], 0)
        before = missing // 2
        deep = F.pad(deep, (before, missing - before) * 2, value=float("-inf"))
        return F.max_pool2d(deep, 3, 2) + self.shortcut_norm(self.shortcut(x))


class MiniXception(nn.Module):
    """Grey pictures in [-1, 1], fp32 [B, 1, 64, 64] -> tokens [B, 16, 128]; `expressions` -> logits [B, 7]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList([nn.Conv2d(1, 8, 3, bias=False), nn.Conv2d(8, 8, 3, bias=False)])
        self.stem_norms = nn.ModuleList([nn.BatchNorm2d(8, eps=NORM_EPSILON) for _ in range(2)])
        self.blocks = nn.ModuleList(map(Block, (8, *BLOCKS), BLOCKS))
        self.classifier = nn.Conv2d(WIDTH, len(EXPRESSIONS), 3, padding=1)

    def forward(self, faces: Tensor) -> Tensor:
        return self._map(faces).flatten(2).transpose(1, 2)

    def expressions(self, faces: Tensor) -> Tensor:
        """Logits in the order of EXPRESSIONS."""
        return self.classifier(self._map(faces)).mean((2, 3))

    def _map(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.stem, self.stem_norms, strict=True):
            x = F.relu(norm(conv(x)))
        for block in self.blocks:
            x = block(x)
        return x

    @classmethod
    def from_folder(cls, folder: Path) -> MiniXception:
        """In evaluation mode with the weights of a resolved folder; loading is strict."""
        described = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        if described.get("model_type") != "mini-xception":
            raise ValueError(f"{folder}: model_type {described.get('model_type')!r}; wanted 'mini-xception'")
        network = cls()
        network.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=True)
        return network.eval()
