"""Who writes a multimodal system's replies: transformers in this process, or vLLM in it, from the same prompts and clips.

Knows nothing of files or datasets.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from model.generation.client import child_environment
from model.generation.settings import EngineArgs
from model.multimodal.model import HERTZ, Answered, MultimodalModel, Prompter, Sense, Shown, picture


class Engine(Protocol):
    """prompter: writes its prompts."""

    prompter: Prompter

    def replies(
        self, texts: Sequence[str], shown: Sequence[Shown | None], max_new_tokens: int
    ) -> list[Answered]:
        """Greedy replies to prompts that all have a clip, or all have none.

        A prompt that the window does not hold with a reply after it ends as `too_long`, and fails no other.
        """
        ...


def vllm_prompt(text: str, shown: Shown | None, sense: Sense) -> dict[str, Any]:
    """A prompt as vLLM takes it: the text with one placeholder, and the clip that stands for it."""
    if shown is None:
        return {"prompt": text}
    clip = (shown.audio, HERTZ) if sense == "audio" else picture(shown)
    return {"prompt": text, "multi_modal_data": {sense: clip}}


def load_multimodal(name: str, folder: Path, args: EngineArgs, adapter: Path | None) -> Engine:
    """name: "transformers" or "vllm". adapter: a folder with a LoRA; None: as it came."""
    if name == "vllm":
        # vLLM reads it when it is imported: as in an engine's process, it is to run inside this one, and call nobody.
        os.environ.update(child_environment(None))
        from model.multimodal.vllm_model import VllmMultimodal

        return VllmMultimodal(folder, args, adapter)
    return MultimodalModel(folder, args.dtype, adapter, args.max_model_len)
