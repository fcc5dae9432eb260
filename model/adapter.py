"""Save a LoRA adapter in peft's layout with bytes that depend on the weights alone, and load one strictly.

peft writes the local path of the base model, sets in the order of their hashes, and a model card; none of
them may differ between two equal runs. Knows nothing of how an adapter was trained.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from model.weights import differing_tensors

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
OF_PEFT, LORA = "base_model.model.", "lora_"
"""In the name of an adapter's weight: what stands before its layer's own name, and what after it."""


class AdapterError(ValueError):
    """An adapter folder that cannot be loaded, or whose weights do not fit its settings or the LLM."""


def load_adapter(llm: nn.Module, folder: Path, trainable: bool = False, to_merge: bool = False) -> PeftModel:
    """The LLM with the adapter of a folder, in the LLM's dtype.

    to_merge: the adapter, and the layers that it changes, are in fp32, and merging them rounds nothing. AdapterError names
    the weights that are missing, unknown or of another shape: peft itself goes on without them.
    """
    folder = Path(folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = not trainable
        weights = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise AdapterError(f"{folder}: no adapter can be read there ({reason}); train it again") from error
    if to_merge:
        changed = {name.removeprefix(OF_PEFT).split(f".{LORA}")[0] for name in weights}
        for name, layer in llm.named_modules():
            if name in changed:
                layer.float()
    adapted = get_peft_model(llm, config, autocast_adapter_dtype=False)
    wanted = get_peft_model_state_dict(adapted)
    differing = differing_tensors(wanted, weights)
    if differing:
        adapted.unload()
        raise AdapterError(f"{folder}: the adapter does not fit this LLM: {differing}; train it again")
    set_peft_model_state_dict(adapted, weights)
    return adapted.requires_grad_(False) if not trainable else adapted


def for_inference(adapted: PeftModel) -> nn.Module:
    """The adapted LLM as replies are made with it: merged where it computes in fp32, which is quicker, else as it is.

    A trained change of 1e-5 an entry is below what bf16 can tell of a weight of 0.1: merged there, most of it is
    rounded away, and two adapters that differ by as little answer alike.
    """
    in_fp32 = all(p.dtype == torch.float32 for p in adapted.parameters())
    return (adapted.merge_and_unload() if in_fp32 else adapted).eval()


def check_adapter(folder: Path, rank: int, alpha: int, target_modules: Sequence[str], names: str) -> None:
    """AdapterError where the adapter of a folder has another rank, alpha or targets; `names`: the settings of these."""
    config = json.loads((Path(folder) / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    found = config.get("r"), config.get("lora_alpha"), sorted(config.get("target_modules") or ())
    if found != (rank, alpha, sorted(target_modules)):
        has = f"rank {found[0]}, alpha {found[1]}, targets {', '.join(found[2])}"
        raise AdapterError(f"{folder}: the adapter has {has}; set {names} to these")


def new_adapter(llm: nn.Module, rank: int, alpha: int, target_modules: Sequence[str], seed: int) -> PeftModel:
    """The LLM with a new LoRA adapter in its own dtype, drawn from the seed, that changes nothing yet; all else frozen."""
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(target_modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(llm, config, autocast_adapter_dtype=False).eval()


def save_adapter(llm: nn.Module, folder: Path, dtype: torch.dtype | None = None) -> None:
    """adapter_config.json and adapter_model.safetensors of the active adapter of a peft model, in `folder`.

    dtype: of the saved weights; by default their own.
    """
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
        if dtype is not None:
            weights = draft / "adapter_model.safetensors"
            saved = {name: weight.to(dtype) for name, weight in load_file(weights).items()}
            save_file(saved, weights, {"format": "pt"})
        for name in ADAPTER_FILES:
            os.replace(draft / name, folder / name)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
