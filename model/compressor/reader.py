"""The reader: a LoRA adapter of the LLM that learns, together with a compressor, to read its memories back.

The paper's LLM is frozen, and then there is none. It is part of the compressor's folder, in peft's layout.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from model.adapter import AdapterError, check_adapter, for_inference, load_adapter, new_adapter, save_adapter
from model.compressor.compressor import READER, MambaCompressor
from model.compressor.reconstruction import Reconstruction
from model.compressor.settings import CompressorSettings
from model.llm import load_llm


def reader_folder(compressor: Path | None) -> Path | None:
    """The reader's folder in that of a compressor; None where it has none."""
    folder = None if compressor is None else Path(compressor) / READER
    return folder if folder is not None and folder.is_dir() else None


def checked_reader(compressor: Path | None, rank: int, alpha: int, target_modules: Sequence[str]) -> Path:
    """The reader's folder in a compressor's, for a dialogue adapter of these settings to start from.

    AdapterError where there is none or it has other ones.
    """
    folder = reader_folder(compressor)
    if folder is None:
        raise AdapterError(
            f"{compressor}: this compressor has no reader for start_from_reader (of dialogue, or ladder); train one "
            "with compressor.reader_rank, or set it to false"
        )
    check_adapter(folder, rank, alpha, target_modules, "dialogue.rank, alpha and target_modules")
    return folder


def with_reader(llm: nn.Module, compressor: Path | None) -> nn.Module:
    """The frozen LLM as it reads the memories of a compressor's folder: with its reader, if it has one."""
    folder = reader_folder(compressor)
    return llm if folder is None else for_inference(load_adapter(llm, folder))


def as_trained(llm: Path, compressor: Path, dtype: str) -> tuple[Reconstruction, MambaCompressor]:
    """The dialogues' task as a compressor learnt it, and the compressor: its reader, if it has one, and its prompt."""
    model, tokenizer = load_llm(llm, dtype)
    encoder = MambaCompressor.load(compressor, tokenizer, model.get_input_embeddings().weight)
    reading = with_reader(model, compressor)
    return Reconstruction(reading, tokenizer, dialogue=True, cached=True, bare=encoder.bare), encoder


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


def learns(llm: nn.Module) -> bool:
    """Whether the LLM has a reader that is being trained."""
    return any(p.requires_grad for p in llm.parameters())


def save_reader(llm: nn.Module, compressor: Path, dtype: str) -> None:
    """The trained reader of an LLM, in its place in a compressor's folder, in `dtype`, whose numbers it takes."""
    with torch.no_grad():
        for weight in reader_weights(llm).values():
            weight.copy_(weight.to(getattr(torch, dtype)))
    save_adapter(llm, Path(compressor) / READER, getattr(torch, dtype))


def copy_reader(source: Path | None, compressor: Path) -> None:
    """The reader of one compressor's folder, if it has one, becomes another's: what was made with it is read with it."""
    folder = reader_folder(source)
    if folder is not None:
        shutil.copytree(folder, Path(compressor) / READER, dirs_exist_ok=True)


def reader_weights(llm: nn.Module) -> dict[str, Tensor]:
    """The weights of an LLM's reader that are trained, by name."""
    return {f"{READER}.{name}": p for name, p in llm.named_parameters() if p.requires_grad}
