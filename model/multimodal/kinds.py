"""What the folder of a multimodal LLM says of its kind before it is loaded. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

NOT_ADAPTED = ("qwen2_audio",)
"""Kinds whose language model vLLM puts no LoRA on."""


def vllm_lora_fault(folder: Path) -> str | None:
    """Why vLLM cannot answer with a LoRA on this model, and what to do; None where it can, or the folder does not say."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None  # what reads the folder says what is wrong with it
    if kind not in NOT_ADAPTED:
        return None
    return f"vLLM puts no LoRA on a model of kind {kind} ({folder}): finetuned, it answers through engine transformers"
