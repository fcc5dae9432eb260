"""The reader: a LoRA adapter of the LLM that learns, together with a compressor, to read its memories back.

The paper's LLM is frozen, and then there is none. It is part of the compressor's folder, in peft's layout.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from torch import nn

from model.adapter import check_adapter, load_adapter, new_adapter, save_adapter
from model.compressor.compressor import READER
from model.compressor.settings import CompressorSettings


def reader_folder(compressor: Path | None) -> Path | None:
    """The reader's folder in that of a compressor; None where it has none."""
    folder = None if compressor is None else Path(compressor) / READER
    return folder if folder is not None and folder.is_dir() else None


def merged_reader(llm: nn.Module, compressor: Path | None) -> nn.Module:
    """The frozen LLM as it reads the memories of a compressor's folder: with its reader, if it has one, merged in."""
    folder = reader_folder(compressor)
    return llm if folder is None else load_adapter(llm, folder).merge_and_unload().eval()


def trained_reader(
    llm: nn.Module, compressor: Path | None, settings: CompressorSettings, seed: int
) -> PeftModel:
    """The LLM with the reader of a compressor's folder, or a new one where there is none, to be trained.

    AdapterError where the one that is there is not what the settings say.
    """
    folder = reader_folder(compressor)
    wanted = settings.reader_rank, settings.reader_alpha, settings.reader_target_modules
    if folder is None:
        return new_adapter(llm, *wanted, seed)
    check_adapter(folder, *wanted, "compressor.reader_rank, reader_alpha and reader_target_modules")
    return load_adapter(llm, folder, trainable=True).eval()


def save_reader(llm: nn.Module, compressor: Path, dtype: str) -> None:
    """The reader of an LLM that has one, in its place in a compressor's folder, in `dtype`."""
    if isinstance(llm, PeftModel):
        save_adapter(llm, Path(compressor) / READER, getattr(torch, dtype))


@torch.no_grad()
def round_reader_to_half(llm: nn.Module) -> None:
    """The reader's weights become the nearest that fp16 can hold; without one nothing happens."""
    for name, weight in llm.named_parameters():
        if "lora_" in name:
            weight.copy_(weight.half())
