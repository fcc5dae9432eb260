"""A multimodal LLM from a local folder: prompts with a clip in them, greedy replies, and what a true reply costs it.

Through transformers' own classes and processors, on the GPU where there is one. Knows nothing of files or datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoProcessor,
    GenerationConfig,
    LlavaNextForConditionalGeneration,
    Qwen2AudioForConditionalGeneration,
)

from model.adapter import for_inference, load_adapter
from model.device import best_device
from model.generation.reply import Reply, reply_of
from model.pretrained import from_folder, whole_model

Sense = Literal["audio", "image"]
KINDS: dict[str, tuple[Sense, Any]] = {
    "qwen2_audio": ("audio", Qwen2AudioForConditionalGeneration),
    "llava_next": ("image", LlavaNextForConditionalGeneration),
}
"""A config's model_type -> what such a model is shown of a clip, and its class."""
HERTZ = 16_000


@dataclass(frozen=True)
class Shown:
    """What a model is shown of a clip. audio: float32 [n] at 16 kHz. image: uint8 [height, width, 3]. The other is None."""

    audio: np.ndarray | None = None
    image: np.ndarray | None = None


def sense_of(folder: str | Path) -> Sense:
    """What the model of a folder is shown. ValueError where it is of no kind that is known here."""
    kind = from_folder(AutoConfig, folder).model_type
    if kind not in KINDS:
        raise ValueError(
            f"{folder}: a model of kind {kind!r}; multimodal systems are of kind {' or '.join(KINDS)}"
        )
    return KINDS[kind][0]


class Prompter:
    """Writes prompts in a model's own chat template, and makes of them and their clips what the model is given."""

    def __init__(self, folder: str | Path) -> None:
        self.sense = sense_of(folder)
        self.processor = from_folder(AutoProcessor, folder)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"
        if not (self.processor.chat_template or self.tokenizer.chat_template):
            raise ValueError(f"{folder}: no chat template; use an instruction-tuned model")
        self.stop_ids = _stop_ids(folder, self.tokenizer.eos_token_id)
        self.positions: int = from_folder(AutoConfig, folder).get_text_config().max_position_embeddings

    def prompt(self, text: str, with_clip: bool) -> str:
        """One user turn, the clip before the text, up to where the assistant begins to speak."""
        return self._chat(text, with_clip, None)

    def answer(self, text: str, with_clip: bool, reply: str) -> str:
        """What stands after `prompt` where the assistant gives the reply, its end of turn included.

        ValueError where the template changes what stands before a reply.
        """
        prompt, whole = self.prompt(text, with_clip), self._chat(text, with_clip, reply)
        if not whole.startswith(prompt):
            raise ValueError(
                "the chat template writes a prompt otherwise once it is answered; none can be trained on"
            )
        said = whole[len(prompt) :].rstrip()
        return said + self.tokenizer.eos_token if said.endswith(reply.rstrip()) else said

    def _chat(self, text: str, with_clip: bool, reply: str | None) -> str:
        content: list[dict] = [{"type": self.sense}] if with_clip else []
        turns: list[dict] = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
        if reply is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": reply}]})
        template = self.processor.chat_template or self.tokenizer.chat_template
        return self.processor.apply_chat_template(
            turns, chat_template=template, tokenize=False, add_generation_prompt=reply is None
        )

    def answer_ids(self, answer: str) -> Tensor:
        """Token ids of an answer [tokens], as they stand after a prompt."""
        return self.tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids[0]

    def tokens(self, text: str, shown: Shown | None) -> int:
        """Of a prompt, those that stand for its clip included."""
        return self.inputs([text], [shown])["input_ids"].shape[1]

    def inputs(self, texts: Sequence[str], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Tensors of rows that all have a clip, or all have none; padded on the left."""
        clips: dict[str, Any] = {}
        if self.sense == "audio" and shown[0] is not None:
            clips = {"audio": [_sound(one) for one in shown], "sampling_rate": HERTZ}
        elif shown[0] is not None:
            clips = {"images": [picture(one) for one in shown]}
        return dict(self.processor(text=list(texts), return_tensors="pt", padding=True, **clips))


def _sound(shown: Shown | None) -> np.ndarray:
    assert shown is not None and shown.audio is not None, "rows of a batch all have a clip, or none"
    return shown.audio


def picture(shown: Shown | None) -> Image.Image:
    """The frame as a picture."""
    assert shown is not None and shown.image is not None, "rows of a batch all have a clip, or none"
    return Image.fromarray(shown.image)


def _stop_ids(folder: str | Path, end: int | None) -> list[int]:
    """Every token that ends a turn: the generation config may name more than the tokenizer."""
    named: Any = None
    if (Path(folder) / "generation_config.json").is_file():
        named = from_folder(GenerationConfig, folder).eos_token_id
    found = {*([named] if isinstance(named, int) else named or ()), *(() if end is None else (end,))}
    if not found:
        raise ValueError(f"{folder}: no end-of-turn token in tokenizer or generation_config.json")
    return sorted(found)


@dataclass(frozen=True)
class Answered:
    """A reply, how it ended, and how many tokens prompt and reply have."""

    reply: Reply
    prompt_tokens: int
    new_tokens: int


class WithinWindow:
    """What answers the prompts that fit its window with a reply after them, and rejects the others as `too_long`.

    window: the most tokens of prompt and reply. Who inherits it answers what fits, in `_replies`.
    """

    prompter: Prompter
    window: int

    def replies(
        self, texts: Sequence[str], shown: Sequence[Shown | None], max_new_tokens: int
    ) -> list[Answered]:
        """Greedy replies to prompts of `Prompter.prompt`; the rows all have a clip, or all have none."""
        sizes = [self.prompter.tokens(text, one) for text, one in zip(texts, shown, strict=True)]
        fits = [size + max_new_tokens <= self.window for size in sizes]
        asked = [row for row, fit in zip(zip(texts, shown, strict=True), fits, strict=True) if fit]
        said, clips = [text for text, _ in asked], [one for _, one in asked]
        given = iter(self._replies(said, clips, max_new_tokens) if asked else ())
        return [
            next(given) if fit else Answered(Reply("", "too_long"), size, 0)
            for fit, size in zip(fits, sizes, strict=True)
        ]

    def _replies(self, texts: list[str], shown: list[Shown | None], max_new_tokens: int) -> list[Answered]:
        raise NotImplementedError


class MultimodalModel(WithinWindow):
    """The model with its prompter. adapter: a folder with a LoRA; None: as it came.

    window: the most tokens of prompt and reply; None: as many as the model has positions, which is never passed.
    """

    def __init__(
        self, folder: str | Path, dtype: str, adapter: Path | None = None, window: int | None = None
    ) -> None:
        self.prompter = Prompter(folder)
        self.window = min(window or self.prompter.positions, self.prompter.positions)
        kind = KINDS[from_folder(AutoConfig, folder).model_type][1]
        self.device = best_device()
        model = whole_model(kind, folder, dtype=getattr(torch, dtype)).to(self.device).eval()
        model.requires_grad_(False)
        self.model: nn.Module = model if adapter is None else for_inference(load_adapter(model, adapter))

    @torch.inference_mode()
    def _replies(self, texts: list[str], shown: list[Shown | None], max_new_tokens: int) -> list[Answered]:
        given = self._moved(self.prompter.inputs(texts, shown))
        out = self.model.generate(
            **given,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=self.prompter.stop_ids,
                pad_token_id=self.prompter.stop_ids[0],
            ),
        )
        sizes = given["attention_mask"].sum(1).tolist()
        new = out[:, given["input_ids"].shape[1] :].tolist()
        return [self._answered(ids, size) for ids, size in zip(new, sizes, strict=True)]

    def _answered(self, ids: list[int], prompt_tokens: int) -> Answered:
        ends = [at for at, token in enumerate(ids) if token in self.prompter.stop_ids]
        said = ids[: ends[0] + 1] if ends else ids
        text = self.prompter.tokenizer.decode(said, skip_special_tokens=True)
        return Answered(reply_of(text.strip(), "stop" if ends else "length"), prompt_tokens, len(said))

    def nats(self, prompt: str, answer: str, shown: Shown | None) -> Tensor:
        """Of every token of an answer after its prompt [tokens]; gradients flow where the model is trained."""
        given, said = self.prompter.inputs([prompt], [shown]), self.prompter.answer_ids(answer)
        before = given["input_ids"].shape[1]
        for name, more in (("input_ids", said), ("attention_mask", torch.ones_like(said))):
            given[name] = torch.cat([given[name], more[None]], dim=1)
        logits = self.model(**self._moved(given)).logits[0, before - 1 : -1].float()  # [tokens, vocabulary]
        return F.cross_entropy(logits, said.to(self.device), reduction="none")

    def _moved(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        kind = next(self.model.parameters()).dtype
        return {
            name: value.to(self.device, kind) if value.is_floating_point() else value.to(self.device)
            for name, value in given.items()
        }
