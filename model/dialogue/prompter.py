"""A dialogue model that makes prompts and answers none: replies come of whoever is given them.

Knows nothing of who that is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from model.dialogue.dialogue import DialogueModel, HistoryForm, load_parts, own_compressor
from model.dialogue.settings import DialogueSettings
from model.embeddings_only import load_embeddings
from model.llm import Piece, embed


def load_prompter(
    llm_folder: Path,
    adapter: Path | None,
    compressor: Path | None,
    extractor: Path | None,
    history: HistoryForm,
    settings: DialogueSettings,
    window: int,
) -> DialogueModel:
    """As `load_dialogue`, without the LLM's layers: an adapter changes none of what a prompt is made of.

    window: positions that a prompt and its reply may take.
    """
    llm, tokenizer = load_embeddings(llm_folder, settings.training.dtype, window)
    compressor = own_compressor(adapter) or compressor
    needed = history == "memory" and settings.memory == "mamba"
    parts = load_parts(llm, tokenizer, compressor if needed else None, extractor)
    return DialogueModel(llm, tokenizer, history, *parts, settings)


def one_tensor(model: DialogueModel, pieces: list[Piece]) -> Tensor:
    """A prompt as token ids [T] where it is nothing else, else as input embeddings [T, d]."""
    if any(piece.is_floating_point() for piece in pieces):
        return embed(model.llm, pieces)
    return torch.cat(pieces)
