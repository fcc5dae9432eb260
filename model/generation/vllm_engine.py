"""Text generation with vLLM, on CPU and GPU alike.

The engine is stepped here, row by row, so that each row is handed over when it finishes. Knows nothing of
processes; the environment it needs is set by the client that starts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from vllm import LLM, SamplingParams
from vllm import __version__ as _version
from vllm.inputs.engine import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.sample.ops import topk_topp_sampler

from model.generation.chat import Chat
from model.generation.memory_share import memory_share, weight_bytes
from model.generation.protocol import Generation, GenerationRequest
from model.generation.reply import reply_of
from model.generation.sampling import keep_nucleus
from model.generation.settings import EngineArgs, EngineSettings


def vllm_arguments(args: EngineArgs, share: float | None = None) -> dict[str, object]:
    """The arguments of `vllm.LLM`; what is None is left to vLLM. share: of a GPU's memory (memory_share)."""
    ours = {"batch_size", "threads", "start_timeout_s", "stall_timeout_s"}
    named = args.model_dump(exclude=ours) | {"gpu_memory_utilization": share}
    named["enforce_eager"] = args.is_eager(on_cpu=current_platform.is_cpu())
    return {name: value for name, value in named.items() if value is not None}


def use_quick_nucleus() -> None:
    """Let vLLM's CPU sampler find the nucleus without sorting the whole vocabulary, its largest cost by far
    for a small model. The nucleus is the same, but for the order of equally likely tokens."""
    original = topk_topp_sampler.apply_top_k_top_p

    def quick(logits: torch.Tensor, k: torch.Tensor | None, p: torch.Tensor | None) -> torch.Tensor:
        return keep_nucleus(logits, p) if k is None and p is not None else original(logits, k, p)

    topk_topp_sampler.apply_top_k_top_p = quick


class VllmEngine:
    """A vLLM engine in this process."""

    version = f"vllm {_version}"

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.chat = Chat(settings.model)
        share = settings.args.gpu_memory_utilization
        if current_platform.is_cpu():
            use_quick_nucleus()
        else:
            total = (
                current_platform.get_device_total_memory()
            )  # asked of the driver; CUDA is not started here
            share = memory_share(settings.args, weight_bytes(Path(settings.model)), total)
        self.engine = LLM(
            model=settings.model, trust_remote_code=False, **vllm_arguments(settings.args, share)
        ).llm_engine

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[Generation]:
        """Answer every request; rows come as they finish, not in order."""
        limit = self.settings.args.max_model_len - self.settings.sampling.max_new_tokens
        for place, request in enumerate(requests):
            prompt = self.chat.prompt_of(request)
            if len(prompt) > limit:
                yield Generation(request.key, "", "too_long", "vllm", len(prompt), 0)
            else:
                self.engine.add_request(str(place), tokens_input(prompt), self._sampling_params(request.seed))
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                if output.finished:
                    yield self._row(requests[int(output.request_id)].key, output)

    def _row(self, key: str, output) -> Generation:
        answer = output.outputs[0]
        if answer.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended row {key} with finish reason {answer.finish_reason!r}")
        reply = reply_of(self.chat.decode(answer.token_ids), answer.finish_reason)
        return Generation(
            key,
            reply.text,
            reply.finish_reason,
            "vllm",
            len(output.prompt_token_ids),
            len(answer.token_ids),
        )

    def _sampling_params(self, seed: int) -> SamplingParams:
        sampling = self.settings.sampling
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            stop_token_ids=list(self.chat.stop_ids),
            # Both engines turn ids into text in the same way, in `Chat`.
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
