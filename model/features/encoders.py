"""Frozen encoders: the sound of an utterance becomes Whisper states, its frames become image tokens.

Paper, section 3.1: hidden states of the last layer of Whisper and CLIP, on the GPU where there is one. Several clips
are encoded at once where asked; then a clip's last bits may depend on its neighbours, alone they never do. Knows
nothing of files, datasets or emotions.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModel, WhisperFeatureExtractor, WhisperModel

from model.device import best_device
from model.llm import DTYPES
from model.pretrained import from_folder, whole_model
from model.zoo import mini_xception
from model.zoo.efficientnet import IMAGE_SIZE, PIXEL_MEAN, PIXEL_STD, EfficientNetLite0
from model.zoo.mini_xception import MiniXception

SAMPLE_RATE = 16_000
GREY = (0.299, 0.587, 0.114)
"""How bright red, green and blue look (ITU-R BT.601)."""
SAMPLES_PER_STATE = 320
"""Whisper: a mel frame is 160 samples, and the second convolution halves their number."""


class FeatureError(ValueError):
    """A clip or a weight folder that cannot be encoded; the message says what to do."""


class Encoder(ABC):
    """What all encoders share: one clip is a batch of one."""

    @abstractmethod
    def states_of(self, clips: Sequence[np.ndarray]) -> list[Tensor]:
        """States of each clip, fp16 on the CPU."""

    def states(self, clip: np.ndarray) -> Tensor:
        """As `states_of`, of one clip."""
        return self.states_of([clip])[0]


class AudioEncoder(Encoder):
    """Whisper's encoder behind its own log-mel front end.

    window_s: as FeatureSettings.audio_window_s.
    """

    def __init__(self, encoder: nn.Module, mel: WhisperFeatureExtractor, window_s: float = 30.0):
        self.encoder, self.mel = encoder.eval().requires_grad_(False), mel
        self.most = encoder.config.max_source_positions
        self.window = _states(round(window_s * SAMPLE_RATE))

    @classmethod
    def load(cls, folder: Path, dtype: str = "float32", window_s: float = 30.0) -> AudioEncoder:
        """From a local Whisper folder, computing in `dtype`. FeatureError where weights are missing."""
        mel = from_folder(WhisperFeatureExtractor, folder)
        return cls(_placed(_load(WhisperModel, folder).encoder, dtype), mel, window_s)

    @property
    def width(self) -> int:
        return self.encoder.config.d_model

    @torch.no_grad()
    def states_of(self, clips: Sequence[np.ndarray]) -> list[Tensor]:
        """Last hidden states fp16 [ceil(n / 320), width] of mono samples float32 [n] at 16 kHz each, 20 ms a state.

        The encoder reads the clip and silence up to the end of its window; the states of the silence are cut off.
        FeatureError for an empty clip, one beyond 30 s, or samples that are no finite numbers.
        """
        weight = next(self.encoder.parameters())
        mels = [self._mels(samples, weight.device).to(weight) for samples in clips]
        sizes = [_states(len(samples)) for samples in clips]
        windows = [min(self.most, -(-size // self.window) * self.window) for size in sizes]
        found: dict[int, Tensor] = {}
        for window in sorted(set(windows)):
            rows = [row for row, of in enumerate(windows) if of == window]
            hidden = self._encoded(torch.cat([mels[row][:, :, : 2 * window] for row in rows]))
            found |= {row: _half(states[: sizes[row]]) for row, states in zip(rows, hidden, strict=True)}
        return [found[row] for row in range(len(clips))]

    def _encoded(self, mels: Tensor) -> Tensor:
        """[B, T, width] of log-mels [B, mels, 2 T]. As transformers' own forward, which takes no other T than the most."""
        encoder = self.encoder
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mels)))).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
        for layer in encoder.layers:
            hidden = layer(hidden, None)
        return encoder.layer_norm(hidden)

    def _mels(self, samples: np.ndarray, device: torch.device) -> Tensor:
        """Log-mels of the clip and silence up to 30 s, fp32 [1, mels, frames]."""
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1 or not 0 < len(samples) <= self.mel.n_samples:
            raise FeatureError(
                f"audio of shape {samples.shape}; give 1 to {self.mel.n_samples} mono samples at 16 kHz"
            )
        if not np.isfinite(samples).all():
            raise FeatureError("audio holds samples that are not finite; decode the clip again")
        read = self.mel(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt", device=device.type)
        return read.input_features


class VideoEncoder(Encoder):
    """What all encoders of frames share: the frames of several clips go through in one batch."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers of a token."""

    @abstractmethod
    def read(self, frames: np.ndarray) -> Tensor:
        """One clip's pixels as the network takes them, [frames, channels, side, side]."""

    @abstractmethod
    def tokens(self, pixels: Tensor) -> Tensor:
        """[N, T, width] of N frames."""

    @torch.no_grad()
    def states_of(self, films: Sequence[np.ndarray]) -> list[Tensor]:
        """Of each clip's RGB frames uint8 [frames, side, side, 3] its tokens fp16 [frames * T, width], frame by frame."""
        tokens = self.tokens(torch.cat([self.read(frames) for frames in films]))
        return [_half(part.flatten(0, 1)) for part in tokens.split([len(frames) for frames in films])]


class ClipEncoder(VideoEncoder):
    """CLIP's vision tower: the class token and the patch tokens of every frame."""

    def __init__(self, tower: nn.Module, mean: list[float], std: list[float], tokens_per_frame: int | None):
        self.tower = tower.eval().requires_grad_(False)
        self.mean, self.std, self.tokens_per_frame = mean, std, tokens_per_frame

    @property
    def width(self) -> int:
        return self.tower.config.hidden_size

    def read(self, frames: np.ndarray) -> Tensor:
        weight = next(self.tower.parameters())
        side = self.tower.config.image_size
        return _pixels(frames, side, self.mean, self.std, weight.device).to(weight)

    def tokens(self, pixels: Tensor) -> Tensor:
        hidden = self.tower(pixel_values=pixels).last_hidden_state
        return torch.cat([hidden[:, :1], _averaged(hidden[:, 1:], self.tokens_per_frame)], dim=1)


class EfficientNetEncoder(VideoEncoder):
    """EfficientNet-Lite0's last feature map, the stand-in where CLIP's weights cannot be had."""

    def __init__(self, network: EfficientNetLite0, tokens_per_frame: int | None):
        # Depthwise convolutions on a CPU are a third quicker with the channels innermost; the values are the same.
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.tokens_per_frame = tokens_per_frame

    @property
    def width(self) -> int:
        return self.network.head.conv.out_channels

    def read(self, frames: np.ndarray) -> Tensor:
        weight = next(self.network.parameters())
        return _pixels(frames, IMAGE_SIZE, [PIXEL_MEAN] * 3, [PIXEL_STD] * 3, weight.device).to(weight)

    def tokens(self, pixels: Tensor) -> Tensor:
        tokens = self.network(pixels.contiguous(memory_format=torch.channels_last))
        return _averaged(tokens, self.tokens_per_frame)


class FaceEncoder(VideoEncoder):
    """Mini-Xception's last feature map before its expressions, of the whole frame in grey."""

    def __init__(self, network: MiniXception, tokens_per_frame: int | None):
        self.network, self.tokens_per_frame = network.eval().requires_grad_(False), tokens_per_frame

    @property
    def width(self) -> int:
        return self.network.classifier.in_channels

    def read(self, frames: np.ndarray) -> Tensor:
        """Grey as television has it, [frames, 1, 64, 64] in -1 to 1."""
        weight = self.network.classifier.weight
        pixels = _pixels(frames, mini_xception.IMAGE_SIZE, [0.5] * 3, [0.5] * 3, weight.device)
        grey = (pixels * torch.tensor(GREY, device=weight.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
        return grey.to(weight)

    def tokens(self, pixels: Tensor) -> Tensor:
        return _averaged(self.network(pixels), self.tokens_per_frame)


def load_video_encoder(
    folder: Path, tokens_per_frame: int | None = None, dtype: str = "float32"
) -> VideoEncoder:
    """The frame encoder that config.json names: CLIP, EfficientNet-Lite0 or Mini-Xception, computing in `dtype`.

    tokens_per_frame: as FeatureSettings.video_tokens_per_frame. FeatureError for any other model.
    """
    folder = Path(folder)
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type == "efficientnet-lite0":
        return EfficientNetEncoder(_placed(EfficientNetLite0.from_folder(folder), dtype), tokens_per_frame)
    if model_type == "mini-xception":
        return FaceEncoder(_placed(MiniXception.from_folder(folder), dtype), tokens_per_frame)
    if model_type in ("clip", "clip_vision_model"):
        described = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        tower = _placed(_load(CLIPVisionModel, folder), dtype)
        return ClipEncoder(tower, described["image_mean"], described["image_std"], tokens_per_frame)
    raise FeatureError(
        f"{folder}: model type {model_type!r} is no frame encoder; give CLIP, EfficientNet-Lite0 or Mini-Xception"
    )


def _states(samples: int) -> int:
    """How many states so many samples have."""
    return -(-samples // SAMPLES_PER_STATE)


def _load(model_class, folder: Path) -> nn.Module:
    """Strict in what the model needs; a checkpoint may hold more (CLIP's text tower, Whisper's head)."""
    try:
        return whole_model(model_class, folder, dtype=torch.float32)
    except ValueError as error:
        raise FeatureError(str(error)) from None


def _placed(network: nn.Module, dtype: str) -> nn.Module:
    """The network where models compute, in `dtype`."""
    return network.to(device=best_device(), dtype=DTYPES[dtype])


def _pixels(
    frames: np.ndarray, side: int, mean: list[float], std: list[float], device: torch.device
) -> Tensor:
    """Normalised pixels fp32 [frames, 3, side, side]; frames of another side are resized (bicubic)."""
    frames = np.asarray(frames)
    if (
        frames.dtype != np.uint8
        or frames.ndim != 4
        or frames.shape[1] != frames.shape[2]
        or frames.shape[3] != 3
    ):
        raise FeatureError(f"frames are {frames.dtype} {frames.shape}; give uint8 [frames, side, side, 3]")
    if not len(frames):
        raise FeatureError("a clip without frames; decode the clip again")
    pixels = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float()
    if pixels.shape[-1] != side:
        pixels = F.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True).clamp(0, 255)
    center, spread = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
    return (pixels / 255 - center) / spread


def _averaged(tokens: Tensor, count: int | None) -> Tensor:
    """Patch tokens [B, side * side, d] averaged over a square map to [B, count, d]; None keeps them."""
    if count is None or count == tokens.shape[1]:
        return tokens
    side = isqrt(tokens.shape[1])
    if count > tokens.shape[1]:
        raise FeatureError(f"{count} tokens per frame wanted, but the encoder gives {tokens.shape[1]}")
    square = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.adaptive_avg_pool2d(square, isqrt(count)).flatten(2).transpose(1, 2)


def _half(states: Tensor) -> Tensor:
    if not torch.isfinite(states).all():
        raise FeatureError("the encoder gave states that are not finite; check its weights")
    limit = torch.finfo(torch.float16).max
    return states.clamp(-limit, limit).to(device="cpu", dtype=torch.float16).contiguous()
