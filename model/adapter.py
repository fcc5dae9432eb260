"""Save and load a LoRA adapter in peft's layout, with bytes that depend on the weights alone.

peft writes the local path of the base model, sets in the order of their hashes, and a model card; none of
them may differ between two equal runs. Knows nothing of how an adapter was trained.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from peft import PeftModel
from torch import nn

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def save_adapter(llm: nn.Module, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors of the active adapter of a peft model, in `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".adapter-", dir=folder))
    try:
        llm.save_pretrained(draft, safe_serialization=True)
        path = draft / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = None
        for name in ("target_modules", "modules_to_save", "exclude_modules"):
            if isinstance(config.get(name), list):
                config[name] = sorted(config[name])
        path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        for name in ADAPTER_FILES:
            os.replace(draft / name, folder / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load_adapter(llm: nn.Module, folder: Path, trainable: bool) -> PeftModel:
    """The LLM with the adapter of a folder. It computes in the LLM's dtype; training keeps fp32 masters of its own."""
    return PeftModel.from_pretrained(llm, str(folder), is_trainable=trainable, autocast_adapter_dtype=False)
