"""An LLM as far as its prompts need it: token embeddings, and how many positions it numbers; nothing that computes.

For prompts whose replies another process makes: this one holds a seventh of a 7B's weights at most. Every other tensor is on
the device "meta", where computing is an error. Knows nothing of what the prompts say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from model.device import best_device
from model.llm import DTYPES
from model.pretrained import from_folder

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"


def load_embeddings(folder: Path, dtype: str, window: int | None = None) -> tuple[nn.Module, Any]:
    """The LLM without its layers, on the GPU where there is one, and its tokenizer, from a local folder.

    window: positions that whoever computes has; the LLM's own where it numbers fewer. ValueError where the folder has no
    token embeddings, or of another shape.
    """
    config = from_folder(AutoConfig, folder)
    if window is not None:
        config.max_position_embeddings = min(window, getattr(config, "max_position_embeddings", window))
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    table = llm.get_input_embeddings()
    name = next(name for name, module in llm.named_modules() if module is table)
    weight = _read(folder, f"{name}.weight")
    if weight.shape != table.weight.shape:
        raise ValueError(
            f"{folder}: {name}.weight is {list(weight.shape)} for {list(table.weight.shape)}; resolve the weights again"
        )
    whole = nn.Embedding(weight.shape[0], weight.shape[1], device="meta")
    whole.weight = nn.Parameter(weight.to(best_device(), DTYPES[dtype]))
    llm.set_input_embeddings(whole)
    return llm.requires_grad_(False).eval(), from_folder(AutoTokenizer, folder)


class EmbeddingsAlone:
    """Stands for a `SharedLLM` where prompts are made and not answered: no adapter changes what they are made of."""

    def __init__(self, folder: Path, dtype: str, window: int):
        """As `load_embeddings`."""
        self.tokenizer: Any
        self.model, self.tokenizer = load_embeddings(folder, dtype, window)
        config: Any = self.model.config
        self.window: int = config.max_position_embeddings

    @property
    def token_embeddings(self) -> Tensor:
        """[vocabulary, d]."""
        return self.model.get_input_embeddings().weight

    @contextmanager
    def using(self, folder: Path | None) -> Iterator[nn.Module]:
        """The model, whichever adapter."""
        yield self.model


def _read(folder: Path, name: str) -> Tensor:
    """One tensor of a folder's weights, whole or in several files."""
    folder = Path(folder)
    file = WHOLE
    if (folder / INDEX).is_file():
        file = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].get(name, WHOLE)
    try:
        with safe_open(folder / file, "pt") as weights:
            return weights.get_tensor(name)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{folder}: no {name} can be read there ({reason}); resolve the weights again"
        ) from error
