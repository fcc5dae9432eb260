"""EfficientNet-Lite0 as a frame encoder: an image becomes 49 tokens of width 1280.

Knows nothing of video, of Q-Formers or of where the weights come from. The architecture is EfficientNet-B0 (Tan
and Le, ICML 2019, Table 1) in its published Lite variant: no squeeze-and-excitation, ReLU6 for swish. Padding and
batch-norm constants are TensorFlow's, as the checkpoint was trained there.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

IMAGE_SIZE = 224
TOKENS = 49
WIDTH = 1280
PIXEL_MEAN = 127.0 / 255.0
PIXEL_STD = 128.0 / 255.0
STEM_WIDTH = 32
NORM_EPSILON = 1e-3

# (expansion, output width, repeats, stride of the first block, kernel): stages 2 to 8 of Table 1.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class ConvNorm(nn.Module):
    """Convolution with TensorFlow's SAME padding, batch normalisation, and ReLU6 unless it is a projection."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=NORM_EPSILON)
        self.activate = activate

    def forward(self, images: Tensor) -> Tensor:
        states = self.norm(self.conv(_pad_same(images, self.conv.kernel_size[0], self.conv.stride[0])))
        return functional.relu6(states) if self.activate else states


def _pad_same(images: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros such that ceil(size / stride) positions come out; an odd one goes right and below."""

    def around(size: int) -> tuple[int, int]:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2

    height, width = images.shape[-2:]
    return functional.pad(images, (*around(width), *around(height)))


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; the input is added where the shape stays."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, outputs, 1, activate=False)
        self.keeps_shape = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        states = images if self.expand is None else self.expand(images)
        states = self.project(self.depthwise(states))
        return images + states if self.keeps_shape else states


class EfficientNetLite0(nn.Module):
    """The network up to its last feature map, without pooling and classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_WIDTH, 3, stride=2)
        blocks, inputs = [], STEM_WIDTH
        for expansion, outputs, repeats, first_stride, kernel in STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, expansion, stride, kernel))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(inputs, WIDTH, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Tokens float [B, 49, 1280], rows of the 7 × 7 map in reading order, from pixels float [B, 3, 224, 224].

        Pixels are (value - 127) / 128 for values of 0 to 255. ValueError for another shape.
        """
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (3, IMAGE_SIZE, IMAGE_SIZE):
            raise ValueError(
                f"pixel_values: shape {tuple(pixel_values.shape)}; wanted [batch, 3, {IMAGE_SIZE}, {IMAGE_SIZE}]"
            )
        states = self.head(self.blocks(self.stem(pixel_values)))
        return states.flatten(2).transpose(1, 2)

    @classmethod
    def from_folder(cls, folder: Path) -> "EfficientNetLite0":
        """The network in evaluation mode with the weights of a resolved folder; loading is strict."""
        described = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        if described.get("model_type") != "efficientnet-lite0":
            raise ValueError(
                f"{folder}: model_type {described.get('model_type')!r}; wanted 'efficientnet-lite0'"
            )
        with torch.device("meta"):
            network = cls()
        network.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=True, assign=True)
        return network.eval()
