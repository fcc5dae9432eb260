"""One frozen LLM whose LoRA adapters take turns, so that every rung and the reader of memories share its weights.

Adapters stay beside the weights and are not merged: what an adapter changes is added at every step, and taking it away
leaves the LLM bit by bit as it was. Knows nothing of what the adapters were trained for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model.adapter import ADAPTER_FILES, AdapterError
from model.llm import load_llm
from model.weights import differing_tensors


class SharedLLM:
    """The LLM of a folder and its tokenizer. Used from one thread: an adapter is taken by all or by none."""

    def __init__(self, folder: Path, dtype: str):
        self.tokenizer: Any
        self._bare, self.tokenizer = load_llm(folder, dtype)
        self._adapted: PeftModel | None = None
        self._names: dict[Path, str] = {}
        self._in_use: Path | None = None

    @property
    def model(self) -> nn.Module:
        """What computes: the LLM, with whatever adapter is taken."""
        return self._bare if self._adapted is None else self._adapted

    @property
    def token_embeddings(self) -> Tensor:
        """[vocabulary, d]; no adapter changes them."""
        return self.model.get_input_embeddings().weight

    def add(self, folder: Path) -> None:
        """Load an adapter, once. AdapterError where it cannot be read, or does not fit exactly."""
        if folder in self._names:
            return
        name = f"adapter-{len(self._names)}"
        config, weights = _read(folder)
        if self._adapted is None:
            self._adapted = get_peft_model(
                self._bare, config, adapter_name=name, autocast_adapter_dtype=False
            )
        else:
            self._adapted.add_adapter(name, config, autocast_adapter_dtype=False)
        wanted = get_peft_model_state_dict(self._adapted, adapter_name=name)
        differing = differing_tensors(wanted, weights)
        if differing:
            raise AdapterError(
                f"{folder}: the adapter does not fit this LLM: {differing}; the run's settings name another LLM "
                "than it was trained on"
            )
        set_peft_model_state_dict(self._adapted, weights, adapter_name=name)
        self._adapted.requires_grad_(False).eval()
        self._names[folder] = name
        self._take(self._in_use)

    @contextmanager
    def using(self, folder: Path | None) -> Iterator[nn.Module]:
        """Within the block the model has this adapter, loaded where it was not; None: none, the LLM as it is."""
        if folder is not None:
            self.add(folder)
        before = self._in_use
        if folder != before:
            self._take(folder)
        try:
            yield self.model
        finally:
            if folder != before:
                self._take(before)

    def _take(self, folder: Path | None) -> None:
        self._in_use = folder
        if self._adapted is None:
            return
        if folder is None:
            self._adapted.base_model.disable_adapter_layers()
        else:
            self._adapted.base_model.enable_adapter_layers()
            self._adapted.set_adapter(self._names[folder], inference_mode=True)
        # peft makes what it switches on trainable, which would keep nothing cached.
        self._adapted.requires_grad_(False)


def _read(folder: Path) -> tuple[PeftConfig, dict]:
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        return config, load_file(folder / ADAPTER_FILES[1])
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AdapterError(f"{folder}: no adapter can be read there ({reason}); train it again") from error
