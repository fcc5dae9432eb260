"""The audio-visual emotion extractor: one Q-Former a modality, projected into the LLM's embedding space.

Paper, section 3.1 and figure 2. Knows nothing of prompts, of training, or of how features are stored.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from model.extractor.qformer import QFormer
from model.extractor.settings import ExtractorSettings
from model.weights import differing_weights

PROJECTION_STD = 0.003
"""Spread of the first weights of the projections and of the embeddings beside text."""


class ExtractorError(ValueError):
    """An extractor folder that cannot be loaded, or features that do not fit."""


class ExtractorShape(BaseModel, frozen=True, extra="forbid"):
    """All that is needed to build an extractor: widths, and the scale of the LLM's token embeddings."""

    audio_width: int
    video_width: int
    llm_width: int
    hidden: int
    layers: int
    heads: int
    queries: int
    token_rms: float
    """Root mean square of an entry of the LLM's token embeddings."""


class Branch(nn.Module):
    """A Q-Former and its projection to `llm_width`."""

    def __init__(self, width: int, shape: ExtractorShape):
        super().__init__()
        self.qformer = QFormer(width, shape.hidden, shape.layers, shape.heads, shape.queries)
        self.projection = nn.Linear(shape.hidden, shape.llm_width)
        # The output is normalised, so small weights mean nothing but that the first steps turn it far: soft
        # prompts of a frozen LLM want a rate many times that of the Q-Former below.
        nn.init.normal_(self.projection.weight, std=PROJECTION_STD)
        nn.init.zeros_(self.projection.bias)
        self.scale = nn.Parameter(torch.full((shape.llm_width,), shape.token_rms))

    def forward(self, features: list[Tensor]) -> Tensor:
        # As large as token embeddings from the first step on: the frozen LLM knows no other size.
        states = self.projection(self.qformer(features))
        return F.rms_norm(states, states.shape[-1:], self.scale)


class Extractor(nn.Module):
    """Features of a clip -> `queries` embeddings a modality, of the LLM's width."""

    def __init__(self, shape: ExtractorShape):
        super().__init__()
        self.shape = shape
        self.audio = Branch(shape.audio_width, shape)
        self.video = Branch(shape.video_width, shape)
        self.text = nn.Parameter(PROJECTION_STD * torch.randn(shape.queries, shape.llm_width))
        """What stands beside a sentence that is shown alone: embeddings that read nothing, and are trained as those of
        the modalities are. The LLM is frozen, so that without them text alone could not be taught the task."""
        self.text_scale = nn.Parameter(torch.full((shape.llm_width,), shape.token_rms))

    def audio_embeddings(self, states: list[Tensor]) -> Tensor:
        """[B, queries, llm_width] in fp32 of Whisper states [T_i, audio_width]."""
        return self.audio(_checked(states, self.shape.audio_width, "audio"))

    def video_embeddings(self, tokens: list[Tensor]) -> Tensor:
        """[B, queries, llm_width] in fp32 of frame tokens [T_i, video_width]."""
        return self.video(_checked(tokens, self.shape.video_width, "video"))

    def text_embeddings(self) -> Tensor:
        """[queries, llm_width] in fp32, the same for every sentence."""
        return F.rms_norm(self.text, self.text.shape[-1:], self.text_scale)

    def save(self, folder: Path) -> None:
        """config.json and model.safetensors; each file appears whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().contiguous().cpu() for name, value in self.state_dict().items()}
        draft = folder / "model.safetensors.tmp"
        save_file(weights, draft)
        os.replace(draft, folder / "model.safetensors")
        draft = folder / "config.json.tmp"
        draft.write_text(
            json.dumps(self.shape.model_dump(), indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
        os.replace(draft, folder / "config.json")


def new_extractor(
    settings: ExtractorSettings, audio_width: int, video_width: int, token_embeddings: Tensor
) -> Extractor:
    """An untrained extractor, its weights drawn from the training seed. token_embeddings: [vocabulary, d]."""
    shape = ExtractorShape(
        audio_width=audio_width,
        video_width=video_width,
        llm_width=token_embeddings.shape[1],
        hidden=settings.hidden,
        layers=settings.layers,
        heads=settings.heads,
        queries=settings.queries,
        token_rms=token_embeddings.float().square().mean().sqrt().item(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        return Extractor(shape)


def load_extractor(folder: Path) -> Extractor:
    """The extractor of a folder, frozen and in eval mode.

    ExtractorError where files are missing or damaged, naming the weights that are absent, unknown or of
    another shape.
    """
    folder = Path(folder)
    try:
        shape = ExtractorShape.model_validate_json((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExtractorError(
            f"{folder}: no extractor can be read there ({reason}); train it again"
        ) from error
    extractor = Extractor(shape)
    differing = differing_weights(extractor, weights)
    if differing:
        raise ExtractorError(
            f"{folder}: model.safetensors does not fit config.json: {differing}; train it again"
        )
    extractor.load_state_dict(weights, strict=True)
    return extractor.requires_grad_(False).eval()


def _checked(features: list[Tensor], width: int, modality: str) -> list[Tensor]:
    for row, states in enumerate(features):
        if states.ndim != 2 or states.shape[1] != width or not len(states):
            raise ExtractorError(
                f"{modality} features of row {row} have shape {tuple(states.shape)}; wanted [at least 1, {width}]"
            )
    return features
