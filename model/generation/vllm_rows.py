"""vLLM given prompts as input embeddings: memories, voice and face stand in them, which no token is.

It computes in processes of its own, which end with this one's `close`; this one hands it rows and takes their tokens, step
by step. LoRA adapters stay beside the weights, which several may share, and are not merged. Knows nothing of text. The
environment that it needs is set by `vllm_rows`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args

from vllm import EngineArgs as VllmArgs
from vllm import SamplingParams
from vllm.config.lora import MaxLoRARanks
from vllm.inputs.engine import embeds_input, tokens_input
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.llm_engine import LLMEngine

from model.generation.client import EngineError
from model.generation.memory_share import memory_share, weight_bytes
from model.generation.settings import EngineArgs
from model.generation.streaming import Row
from model.generation.vllm_engine import vllm_arguments


class VllmRows:
    """A vLLM engine over the LLM of a folder, used by the thread that starts it.

    adapters: every LoRA that a row may ask for. stop_ids: the tokens that end a reply, and no others do. EngineError where
    it does not start, and where it dies at work.
    """

    def __init__(
        self, folder: Path, args: EngineArgs, stop_ids: Sequence[int], adapters: Sequence[Path] = ()
    ):
        self._stop_ids = list(stop_ids)
        self._loras = {a: LoRARequest(str(a), n, str(a)) for n, a in enumerate(dict.fromkeys(adapters), 1)}
        self._rows: dict[str, Row] = {}
        self._count, self._dead = 0, False
        share = args.gpu_memory_utilization
        if not current_platform.is_cpu():
            total = current_platform.get_device_total_memory()  # asked of the driver
            share = memory_share(args, weight_bytes(folder), total)
        asked = VllmArgs(
            model=str(folder),
            trust_remote_code=False,
            generation_config="vllm",
            enable_prompt_embeds=True,
            disable_log_stats=True,
            **vllm_arguments(args, share),
            **_lora_arguments(list(self._loras)),
        )
        try:
            self._engine = LLMEngine.from_engine_args(asked, enable_multiprocessing=True)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(f"vLLM did not start: {_line(error)}", passing=True) from error

    def __len__(self) -> int:
        """Rows under way."""
        return len(self._rows)

    def add(self, row: Row, adapter: Path | None = None) -> None:
        """Begin a row, of token ids [T] or of input embeddings [T, d], with one of the adapters or none."""
        name, self._count = str(self._count), self._count + 1
        prompt = row.prompt.cpu()
        given = embeds_input(prompt) if prompt.is_floating_point() else tokens_input(prompt.tolist())
        lora = None if adapter is None else self._loras[adapter]
        with self._alive():
            self._engine.add_request(name, given, self._sampling(row), lora_request=lora)
        self._rows[name] = row

    def step(self) -> list[Row]:
        """Wait for more tokens. Returns the rows that have some; those that ended with them are under way no more."""
        if not self._rows:
            return []
        with self._alive():
            outputs = self._engine.step()
        more = []
        for output in outputs:
            row = self._rows.get(output.request_id)
            if row is None:  # it has left, and this was on its way
                continue
            (said,) = output.outputs
            row.tokens.extend(said.token_ids)
            if output.finished:
                if said.finish_reason not in ("stop", "length"):
                    raise EngineError(f"vLLM ended a reply with {said.finish_reason!r}", passing=True)
                row.ended = said.finish_reason
                del self._rows[output.request_id]
            more.append(row)
        return more

    def leave(self, gone: Sequence[Row]) -> None:
        """The rows end where they are."""
        names = [name for name, row in self._rows.items() if any(row is other for other in gone)]
        for name in names:
            del self._rows[name]
        with suppress(EngineError), self._alive():  # where it has died, they ended with it
            self._engine.abort_request(names)

    def close(self) -> None:
        """End its processes, and what is under way."""
        self._rows.clear()
        self._engine.engine_core.shutdown()

    def __enter__(self) -> VllmRows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """EngineError where vLLM has died: it says so once, and would then be waited for without end."""
        if self._dead:
            raise _died()
        try:
            yield
        except EngineDeadError as error:
            self._dead = True
            self._rows.clear()
            raise _died() from error

    def _sampling(self, row: Row) -> SamplingParams:
        sampling = row.sampling
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampling.temperature else 1.0,
            max_tokens=sampling.max_new_tokens,
            seed=sampling.seed if sampling.temperature else None,
            ignore_eos=True,  # a folder's generation config may name others than the tokenizer's, which are ours
            stop_token_ids=self._stop_ids,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )


def _lora_arguments(adapters: Sequence[Path]) -> dict[str, object]:
    if not adapters:
        return {}
    configs = [json.loads((a / "adapter_config.json").read_text(encoding="utf-8")) for a in adapters]
    rank = max(config["r"] for config in configs)
    ranks = [most for most in get_args(MaxLoRARanks) if most >= rank]
    if not ranks:
        raise EngineError(f"vLLM takes LoRA ranks up to {max(get_args(MaxLoRARanks))}; an adapter has {rank}")
    return {
        "enable_lora": True,
        # One more than there are: on a CPU vLLM gives rows without an adapter what lies in the last place, which stays empty.
        "max_loras": len(adapters) + 1,
        "max_lora_rank": min(ranks),
        # No more than these: vLLM would adapt token embeddings too, and fails where only some positions of a step are tokens.
        "lora_target_modules": sorted({name for config in configs for name in config["target_modules"]}),
    }


def _died() -> EngineError:
    return EngineError(
        "vLLM's process died at work; what it printed says why, most often that memory ran out", passing=True
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:600]
