"""Multimodal LLMs through vLLM: prompts are written, and clips handed over, as transformers is given them.

vLLM runs the processor itself, and stands where each clip's tokens go. Knows nothing of files or datasets.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from model.generation.memory_share import memory_share, weight_bytes
from model.generation.reply import reply_of
from model.generation.settings import EngineArgs
from model.generation.vllm_engine import vllm_arguments
from model.multimodal.engines import vllm_prompt
from model.multimodal.kinds import vllm_lora_fault
from model.multimodal.model import Answered, Prompter, Shown, WithinWindow


def _gpu_share(folder: Path, args: EngineArgs) -> float | None:
    """Of a GPU's memory, as other engines of vLLM's ask for it."""
    if current_platform.is_cpu():
        return args.gpu_memory_utilization
    total = current_platform.get_device_total_memory()  # asked of the driver; CUDA is not started here
    return memory_share(args, weight_bytes(folder), total)


class VllmMultimodal(WithinWindow):
    """vLLM in this process. adapter: a folder with a LoRA, for kinds of which vLLM adapts the language model (LLaVA-NeXT)."""

    def __init__(self, folder: Path, args: EngineArgs, adapter: Path | None = None) -> None:
        self.prompter = Prompter(folder)
        self.window = args.max_model_len  # vLLM takes none that is beyond the model's positions
        fault = None if adapter is None else vllm_lora_fault(folder)
        if fault is not None:
            raise ValueError(fault)
        self.lora = None if adapter is None else LoRARequest("adapter", 1, str(adapter))
        further: dict[str, Any] = {}
        if adapter is not None:
            rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
            further = {"enable_lora": True, "max_lora_rank": rank}
        self.llm = LLM(
            model=str(folder),
            trust_remote_code=False,
            limit_mm_per_prompt={self.prompter.sense: 1},
            **vllm_arguments(args, _gpu_share(folder, args)),
            **further,
        )

    def _replies(self, texts: list[str], shown: list[Shown | None], max_new_tokens: int) -> list[Answered]:
        sampling = SamplingParams(
            temperature=0, max_tokens=max_new_tokens, stop_token_ids=self.prompter.stop_ids, detokenize=False
        )
        prompts = [
            vllm_prompt(text, one, self.prompter.sense) for text, one in zip(texts, shown, strict=True)
        ]
        found = self.llm.generate(prompts, sampling, use_tqdm=False, lora_request=self.lora)
        return [self._answered(output) for output in found]

    def _answered(self, output: Any) -> Answered:
        (said,) = output.outputs
        text = self.prompter.tokenizer.decode(list(said.token_ids), skip_special_tokens=True)
        reply = reply_of(text.strip(), said.finish_reason)
        return Answered(reply, len(output.prompt_token_ids), len(said.token_ids))
