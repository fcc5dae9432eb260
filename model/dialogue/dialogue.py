"""The dialogue model: an LLM that answers a sentence given its history, voice and face (paper, figure 1).

Table 6 is its prompt: history as role-tagged text, as memories, or as memories of the older utterances and text of the
last ones, then audio and video embeddings, then the sentence. Knows nothing of how any part was trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from model.adapter import for_inference, load_adapter
from model.batches import length_sorted_batches
from model.compressor.compressor import MambaCompressor
from model.dialogue.examples import DialogueExample
from model.dialogue.mean_memory import MeanMemory
from model.dialogue.settings import DialogueSettings
from model.extractor.extractor import load_extractor
from model.features.stored import Features, in_memory
from model.llm import (
    CachedPrefix,
    Piece,
    body_and_head,
    chat_pieces,
    embed,
    greedy_replies,
    load_llm,
    reply_ids,
    strip_placeholders,
    token_ids,
)
from model.prompts import AUDIO, MEMORY, VIDEO, dialogue_prompt
from model.spoken import Spoken

PLACEHOLDERS = (MEMORY, AUDIO, VIDEO)
WINDOW_MARGIN = 16
"""Tokens for the words "history:" and for what a new line may do to the tokens beside it."""
HistoryForm = Literal["text", "memory"]
Modality = Literal["audio", "video"]
MODALITIES: tuple[Modality, ...] = ("audio", "video")
COMPRESSOR = "compressor"
"""In an adapter's folder, the folder of a compressor that learnt with it and goes with it."""
Memories = dict[tuple[Spoken, ...], tuple[Tensor, ...]]
"""History -> of each utterance its memories [n, d]: one, or as many as the compressor gives it."""


class Compressor(Protocol):
    """What is asked of what makes memories: MambaCompressor, or MeanMemory."""

    def compress(
        self,
        dialogues: Sequence[Sequence[Spoken]],
        *,
        dtype: torch.dtype = torch.float32,
        device: str | None = None,
    ) -> list[Tensor]:
        """Of each dialogue the memories of all its utterances, in order [sum of `counts`, d], of that type and there."""
        ...

    def counts(self, dialogue: Sequence[Spoken]) -> list[int]:
        """How many memories each utterance has."""
        ...

    def reads_whole(self, text: str) -> bool:
        """Whether an utterance's memories know it to its end."""
        ...


class Shown(NamedTuple):
    """How many of a history's newest utterances are in the prompt: the last `text` as text, those before as memories."""

    memories: int
    text: int


class EmotionEmbeddings(Protocol):
    """What is asked of the audio-visual emotion extractor."""

    def audio_embeddings(self, states: list[Tensor]) -> Tensor:
        """[B, queries, d] of Whisper states [T_i, d_audio]."""
        ...

    def video_embeddings(self, tokens: list[Tensor]) -> Tensor:
        """[B, queries, d] of frame tokens [T_i, d_video]."""
        ...


class DialogueModel:
    """LLM (plain or peft), tokenizer, and the frozen parts whose output stands in its prompt.

    `counts` says how many prompts were made, how many utterances of history were too old to be in them, and how many
    of the last ones had no room as text and stand as memories.
    """

    def __init__(
        self,
        llm: nn.Module,
        tokenizer,
        history: HistoryForm,
        compressor: Compressor | None = None,
        extractor: EmotionEmbeddings | None = None,
        settings: DialogueSettings | None = None,
    ):
        self.settings = settings or DialogueSettings()
        if history == "memory" and self.settings.memory == "mean":
            compressor = MeanMemory(tokenizer, llm.get_input_embeddings().weight)
        if history == "memory" and compressor is None:
            raise ValueError("dialogue: history as memories needs a compressor; give one, or history as text")
        self.llm, self.tokenizer, self.history = llm, tokenizer, history
        self.compressor, self.extractor = compressor, extractor
        self.counts: Counter[str] = Counter()
        self._start: CachedPrefix | None = None

    @property
    def use_audio_visual(self) -> bool:
        """Whether audio and video of an example enter its prompt."""
        return self.extractor is not None

    @property
    def compressor_learns(self) -> bool:
        """Whether memories change in training."""
        trained = self.settings.train_compressor and isinstance(self.compressor, nn.Module)
        return trained and any(p.requires_grad for p in self.compressor.parameters())

    @property
    def window(self) -> int | None:
        """Tokens that the LLM can number; None where it sets no limit."""
        return getattr(body_and_head(self.llm)[0].config, "max_position_embeddings", None)

    def prompt(self, example: DialogueExample) -> Tensor:
        """Input embeddings [T, d] of table 6 for an example, without gradient."""
        return self.prompts([example])[0]

    @torch.no_grad()
    def prompts(
        self,
        examples: Sequence[DialogueExample],
        memories: Memories | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Tensor]:
        """Input embeddings [T_i, d] of each example, to reply to with so many tokens; else as `pieces`."""
        reply = max_new_tokens or self.settings.max_new_tokens
        return [embed(self.llm, pieces) for pieces in self.pieces(examples, memories, reply)]

    def pieces(
        self,
        examples: Sequence[DialogueExample],
        memories: Memories | None = None,
        reply: int | None = None,
    ) -> list[list[Piece]]:
        """The prompt of each example as token ids and embeddings; `memories` saves computing them again.

        reply: the tokens that a reply has room for; by default as many as a reply may have in use, or the
        example's own where that is longer. A line without content is left out. ValueError names an example
        that leaves no such room without any history, and an empty clip.
        """
        found = self.fitting_pieces(examples, memories, reply)
        for example, pieces in zip(examples, found, strict=True):
            if pieces is None:
                raise ValueError(
                    f"dialogue: {example.key}: its prompt has no room for a reply in the LLM's window of "
                    f"{self.window} tokens, even without history; shorten the sentence"
                )
        return found

    def fitting_pieces(
        self,
        examples: Sequence[DialogueExample],
        memories: Memories | None = None,
        reply: int | None = None,
    ) -> list[list[Piece] | None]:
        """As `pieces`, with None for an example that leaves no room. Memories keep their gradient where they have one."""
        if memories is None:
            memories = self.memories([e.history for e in examples])
        with torch.no_grad():
            audio, video = (self._embedded(examples, name) for name in MODALITIES)
        return list(self._all_pieces(examples, memories, audio, video, reply))

    @torch.no_grad()
    def prompt_sizes(
        self, examples: Sequence[DialogueExample], memories: Memories, reply: int | None = None
    ) -> list[int | None]:
        """Tokens of each prompt that `fitting_pieces` would make; None where it would make none.

        Of all clips one of each modality is read: every clip takes as many embeddings.
        """
        audio, video = (self._embedded(examples, name, one=True) for name in MODALITIES)
        found = self._all_pieces(examples, memories, audio, video, reply)
        return [None if pieces is None else prompt_tokens(pieces) for pieces in found]

    def _all_pieces(
        self,
        examples: Sequence[DialogueExample],
        memories: Memories,
        audio: dict[int, Tensor],
        video: dict[int, Tensor],
        reply: int | None,
    ) -> Iterator[list[Piece] | None]:
        """The pieces of each, one after the other; audio, video: embeddings by row."""
        for i, example in enumerate(examples):
            shown = memories.get(example.history, ())
            yield self._pieces(example, shown, audio.get(i), video.get(i), reply)

    def memories(self, histories: Sequence[tuple[Spoken, ...]]) -> Memories:
        """Memories of distinct histories, in the LLM's dtype; empty where the history is text.

        A memory knows only what came before it, so a history that begins another needs no pass of its own:
        all exchanges of a dialogue cost one. They are kept on the CPU, unless they have a gradient: those of a whole
        split are held throughout a training, and a batch's are few.
        """
        if self.history == "text" or self.compressor is None:
            return {}
        whole_of = _whole_histories(histories)
        whole = sorted(set(whole_of.values()), key=_in_order)
        learning = self.compressor_learns and torch.is_grad_enabled()
        kept = {"learning": True} if learning else {"device": "cpu"}
        made = self.compressor.compress(whole, dtype=self._dtype, **kept)
        memories = {h: m.split(self.compressor.counts(h)) for h, m in zip(whole, made, strict=True)}
        return {history: memories[whole_of[history]][: len(history)] for history in whole_of}

    def reply(
        self,
        examples: Sequence[DialogueExample],
        max_new_tokens: int | None = None,
        memories: Memories | None = None,
    ) -> list[str]:
        """Greedy replies, in the order of the examples; `memories` as for `pieces`."""
        limit = max_new_tokens or self.settings.max_new_tokens
        return self.reply_to(self.pieces(examples, memories, limit), limit)

    @torch.no_grad()
    def reply_to(
        self,
        prompts: Sequence[list[Piece]],
        max_new_tokens: int | None = None,
        progress: Callable[[int, int, dict[str, float]], None] | None = None,
    ) -> list[str]:
        """Greedy replies to prompts as `pieces` makes them, in their order. progress(replies, prompts, {}): called
        after each batch; those of a batch are of like length, so that little is padded.

        What the prompts begin with is encoded at the first call and kept for all later ones.
        """
        limit, start = max_new_tokens or self.settings.max_new_tokens, self.cached_prefix()
        replies: dict[int, str] = {}
        lengths = [prompt_tokens(pieces) for pieces in prompts]
        for rows in length_sorted_batches(lengths, self.settings.reply_batch_size):
            embedded = [embed(self.llm, prompts[i]) for i in rows]
            texts = greedy_replies(self.llm, self.tokenizer, embedded, limit, start)
            replies.update(zip(rows, texts, strict=True))
            if progress is not None:
                progress(len(replies), len(prompts), {})
        return [replies[i] for i in range(len(prompts))]

    def cached_prefix(self) -> CachedPrefix | None:
        """Template and instruction of table 6, encoded once; None where the LLM may still be trained.

        Weights that are changed by hand after the first reply would leave it stale.
        """
        if any(p.requires_grad for p in self.llm.parameters()):
            return None
        if self._start is None:
            text = dialogue_prompt("", MEMORY, False, False)
            before_memory = chat_pieces(self.tokenizer, text, {MEMORY: torch.zeros(1, 1)})[0]
            self._start = CachedPrefix.of(self.llm, before_memory)
        return self._start

    @property
    def _dtype(self) -> torch.dtype:
        return self.llm.get_input_embeddings().weight.dtype

    def _embedded(
        self, examples: Sequence[DialogueExample], modality: Modality, one: bool = False
    ) -> dict[int, Tensor]:
        """Embeddings [queries, d] of each row's clip, by row; with `one`, the first clip's stand for all."""
        clips = self._clips(examples, modality)
        if not clips:
            return {}
        embeddings = (
            self.extractor.audio_embeddings if modality == "audio" else self.extractor.video_embeddings
        )
        read = list(clips.values())[: 1 if one else None]
        found = embeddings([in_memory(features) for features in read]).to(self._dtype)
        return dict.fromkeys(clips, found[0]) if one else dict(zip(clips, found, strict=True))

    def _clips(self, examples: Sequence[DialogueExample], modality: Modality) -> dict[int, Features]:
        """Features of a modality by the row that has them; none without an extractor.

        ValueError names the row of an empty clip here: the extractor, given these alone, would count others.
        """
        clips = {i: getattr(e, modality) for i, e in enumerate(examples)} if self.extractor else {}
        clips = {i: features for i, features in clips.items() if features is not None}
        for i, features in clips.items():
            if not len(features):
                raise ValueError(
                    f"dialogue: the {modality} of {examples[i].key} (row {i}) has length zero; leave it out"
                )
        return clips

    def _pieces(
        self,
        example: DialogueExample,
        memories: tuple[Tensor, ...],
        audio: Tensor | None,
        video: Tensor | None,
        reply: int | None,
    ) -> list[Piece] | None:
        slots = {AUDIO: audio, VIDEO: video}
        slots = {name: value for name, value in slots.items() if value is not None}

        def pieces(history: str | None, memory: dict[str, Tensor]) -> list[Piece]:
            text = dialogue_prompt(
                strip_placeholders(example.sentence, PLACEHOLDERS),
                history,
                audio is not None,
                video is not None,
            )
            return chat_pieces(self.tokenizer, text, {**memory, **slots})

        bare = pieces(None, {})
        shown = self._shown(example, [len(m) for m in memories], sum(len(p) for p in bare), reply)
        if shown is None:
            return None
        self.counts["prompts"] += 1
        self.counts["dropped_utterances"] += len(example.history) - sum(shown)
        if not sum(shown):
            return bare
        older = len(example.history) - shown.text
        lines = [strip_placeholders(utterance.line, PLACEHOLDERS) for utterance in example.history[older:]]
        if not shown.memories:
            return pieces("\n".join(lines), {})
        memory = torch.cat(memories[older - shown.memories : older])
        return pieces("\n".join([MEMORY, *lines]), {MEMORY: memory})

    def _shown(
        self, example: DialogueExample, sizes: Sequence[int], bare: int, reply: int | None
    ) -> Shown | None:
        """What of the history has room beside `bare` other tokens and the reply; newer utterances come first.

        sizes: of each utterance, its memories. reply: as for `pieces`. A last utterance that has no room as text stands
        as a memory, and so do those before it. None where bare and reply alone have no room.
        """
        if reply is None:
            reply = max(self.settings.max_new_tokens, len(reply_ids(self.tokenizer, example.reply)))
        room = float("inf") if self.window is None else self.window - bare - reply - WINDOW_MARGIN
        if room < 0:
            return None
        most, whole = self.settings.max_history_utterances, len(example.history)
        wanted = min(most, whole, whole if self.history == "text" else self.settings.recent_utterances)
        lines = example.history[whole - wanted :]
        costs = [len(token_ids(self.tokenizer, utterance.line)) + 1 for utterance in lines]
        text = _fitting(costs, min(room, self.settings.max_history_tokens))
        if text < wanted and self.history == "memory":
            self.counts["recent_as_memories"] += wanted - text
        room -= sum(costs[wanted - text :])
        older = [] if self.history == "text" else sizes[max(0, whole - most) : whole - text]
        return Shown(_fitting(older, room), text)


def _fitting(costs: Sequence[int], room: float) -> int:
    """How many of the last have room together."""
    for count, spent in enumerate(accumulate(reversed(costs))):
        if spent > room:
            return count
    return len(costs)


def prompt_tokens(pieces: Sequence[Piece]) -> int:
    """Positions that a prompt takes in the LLM."""
    return sum(len(piece) for piece in pieces)


def _whole_histories(
    histories: Iterable[tuple[Spoken, ...]],
) -> dict[tuple[Spoken, ...], tuple[Spoken, ...]]:
    """Each distinct history -> one of them that begins with it and begins no other; itself where there is none."""
    found: dict[tuple[Spoken, ...], tuple[Spoken, ...]] = {}
    whole: tuple[Spoken, ...] = ()
    for history in sorted(set(histories) - {()}, key=_in_order, reverse=True):
        # In this order a history comes right after those that it begins.
        if whole[: len(history)] != history:
            whole = history
        found[history] = whole
    return found


def _in_order(history: tuple[Spoken, ...]) -> list[tuple[str, int]]:
    """An order in which a history comes right before those that it begins; no role comes before the first."""
    return [(text, -1 if role is None else role) for text, role in history]


def load_dialogue(
    llm_folder: Path,
    adapter: Path | None,
    compressor: Path | None,
    extractor: Path | None,
    history: HistoryForm,
    dtype: str = "bfloat16",
    settings: DialogueSettings | None = None,
    trainable: bool = False,
) -> DialogueModel:
    """A dialogue model from local folders; without `adapter`, the LLM as it is.

    The adapter is merged into an LLM in fp32, which makes replies quicker, unless it is to be trained on. A compressor
    that learnt with the adapter takes the place of the one given.
    """
    llm, tokenizer = load_llm(llm_folder, dtype)
    settings = settings or DialogueSettings()
    compressor = own_compressor(adapter) or compressor
    needed = history == "memory" and settings.memory == "mamba"
    parts = load_parts(llm, tokenizer, compressor if needed else None, extractor)
    if adapter is not None:
        # The adapter computes in the LLM's dtype; training keeps fp32 masters of its own.
        llm = load_adapter(llm, adapter, trainable)
        llm = llm.eval() if trainable else for_inference(llm)
    return DialogueModel(llm, tokenizer, history, *parts, settings)


def own_compressor(adapter: Path | None) -> Path | None:
    """The folder of the compressor that learnt with an adapter; None where none did."""
    folder = None if adapter is None else Path(adapter) / COMPRESSOR
    return folder if folder is not None and folder.is_dir() else None


def load_parts(
    llm: nn.Module, tokenizer, compressor: Path | None, extractor: Path | None
) -> tuple[MambaCompressor | None, EmotionEmbeddings | None]:
    """Compressor and extractor, frozen, on the LLM's device; None where there is no folder."""
    table = llm.get_input_embeddings().weight
    return (
        MambaCompressor.load(compressor, tokenizer, table) if compressor is not None else None,
        load_extractor(extractor).to(table.device) if extractor is not None else None,
    )
