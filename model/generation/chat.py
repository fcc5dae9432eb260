"""Chat messages to token ids and back, the same for both engines, so that both see equal prompts.

Knows nothing of sampling or of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from model.generation.protocol import GenerationRequest, Message
from model.pretrained import from_folder


class Chat:
    """Tokenizer and chat template of a model folder.

    Raises ValueError when the folder's tokenizer has no chat template or no end-of-turn token.
    """

    def __init__(self, folder: str | Path) -> None:
        self.tokenizer: PreTrainedTokenizerBase = from_folder(AutoTokenizer, folder)
        if not self.tokenizer.chat_template:
            raise ValueError(f"{folder}: the tokenizer has no chat template; use an instruction-tuned model")
        self.stop_ids: tuple[int, ...] = _stop_ids(folder, self.tokenizer)

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt, up to where the assistant begins to speak."""
        return self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )

    def prompt_of(self, request: GenerationRequest) -> list[int]:
        """Token ids of what a request asks: its own, or those of its messages."""
        return list(request.tokens) or self.encode(request.messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of an answer, without special tokens."""
        return self.tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def _stop_ids(folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a turn: a model's generation config may name more than its tokenizer."""
    stop = set()
    if (Path(folder) / "generation_config.json").is_file():
        named = GenerationConfig.from_pretrained(str(folder), local_files_only=True).eos_token_id
        stop.update([named] if isinstance(named, int) else named or [])
    if tokenizer.eos_token_id is not None:
        stop.add(tokenizer.eos_token_id)
    if not stop:
        raise ValueError(
            f"{folder}: no end-of-turn token in the tokenizer or generation_config.json; name one there"
        )
    return tuple(sorted(stop))
