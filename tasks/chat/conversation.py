"""One conversation as the models know it: who said what, and its memories, read turn by turn at a flat cost a turn.

Every method that takes `models` is to be called in the engine's thread. Knows nothing of terminals, pages or servers.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from model.dialogue.dialogue import DialogueModel, Shown, prompt_tokens
from model.dialogue.examples import DialogueExample
from model.dialogue.streamed_memories import StreamedMemories
from model.llm import embed, token_ids
from model.spoken import Spoken
from storage.errors import InputError
from tasks.chat.clips import Heard
from tasks.chat.models import Models


@dataclass(frozen=True)
class HistorySize:
    """What a rung has of the conversation. form: "memory" or "text".

    utterances: said so far. shown: of these, the newest that the next prompt has beside its sentence. positions: what they
    take in it, embeddings and tokens; as_text: what they would take as text. state_bytes: of the compressor's state, the
    same at every turn; 0 where there is none.
    """

    form: str
    utterances: int
    shown: int
    positions: int
    as_text: int
    state_bytes: int


class Conversation:
    """kept: the newest utterances that a prompt may have; older ones are known to the compressor's state alone."""

    def __init__(self, kept: int):
        self.kept = kept
        self.said: list[Spoken] = []
        self._memories: dict[int, StreamedMemories] = {}
        """By the compressor that made them: rungs share one, or have their own."""

    def add(self, text: str, role: int) -> None:
        """Something more was said; by whom counts from 0, in the order of first appearance."""
        self.said.append(Spoken(text, role))

    def branch(self) -> Conversation:
        """The same so far, to be continued in another way."""
        other = copy(self)
        other.said = list(self.said)
        other._memories = {key: memories.branch() for key, memories in self._memories.items()}
        return other

    def read(self, models: Models, rung: str) -> None:
        """Compress what was said since; the next prompt of the rung need not wait for it."""
        with models.rung(rung) as model:
            self._read(model)

    def prompt(
        self, models: Models, rung: str, sentence: str, clip: Heard | None = None, reply: int | None = None
    ) -> Tensor:
        """Input embeddings [T, d] of table 6, for a reply of that many tokens to a sentence. InputError where it has no room."""
        with models.rung(rung) as model:
            history, memories = self._history(), self._read(model)
            audio, video = (None, None) if clip is None else (clip.audio, clip.video)
            example = DialogueExample("this turn", history, sentence, "", audio, video)
            try:
                (pieces,) = model.pieces([example], {history: memories}, reply)
            except ValueError as error:
                raise InputError(str(error)) from None
            with torch.no_grad():
                return embed(model.llm, pieces)

    def size(self, models: Models, rung: str, reply: int | None = None) -> HistorySize:
        """What the rung has of it now, beside room for a reply of that many tokens."""
        with models.rung(rung) as model:
            history, memories = self._history(), self._read(model)
            shown = _shown(model, history, memories, reply)
            newest = history[len(history) - sum(shown) :]
            costs = [len(token_ids(model.tokenizer, utterance.line)) + 1 for utterance in newest]
            embeddings = prompt_tokens(memories[len(history) - sum(shown) :][: shown.memories])
            positions = embeddings + sum(costs[shown.memories :])
            state = 0 if model.history == "text" else self._memories[id(model.compressor)].state_bytes
            return HistorySize(model.history, len(self.said), len(newest), positions, sum(costs), state)

    def recall(self, models: Models, rung: str, utterances: int) -> list[tuple[str, str]]:
        """Each of the last utterances, and what the rung's memories of it give back. InputError where it has no memories
        that can be read back."""
        folder = models.compressor_of(models.found.rungs[rung])
        with models.rung(rung) as model:
            if model.history == "text":
                raise InputError(f"{rung} has no memories: it is given the history as text")
            if folder is None:
                raise InputError(
                    f"{rung}: its memories are means of embeddings; nothing learnt to read them back"
                )
            memories = self._read(model)[-utterances:]
        said = [u.text for u in self._history()[-utterances:]]
        recalled = models.recalled(folder, memories) if memories else []
        return list(zip(said, recalled, strict=True))

    def _history(self) -> tuple[Spoken, ...]:
        """What a prompt may have of it."""
        return tuple(self.said[-self.kept :]) if self.kept else ()

    def _read(self, model: DialogueModel) -> tuple[Tensor, ...]:
        """Memories [n, d] of each utterance of `_history`; none where it is given as text."""
        if model.history == "text":
            return ()
        assert model.compressor is not None, "memories are made by one"
        key = id(model.compressor)
        if key not in self._memories:
            self._memories[key] = StreamedMemories(model.compressor, self.kept)
        return self._memories[key].read(self.said)


def _shown(
    model: DialogueModel, history: tuple[Spoken, ...], memories: tuple[Tensor, ...], reply: int | None
) -> Shown:
    """How much of a history stands in a prompt for a sentence without words, as the prompt itself tells it."""
    dropped = model.counts["dropped_utterances"]
    (pieces,) = model.pieces([DialogueExample("next turn", history, "", "")], {history: memories}, reply)
    shown = len(history) - (model.counts["dropped_utterances"] - dropped)
    embeddings = sum(len(piece) for piece in pieces if piece.is_floating_point())
    # The memories stand before the text, none of them empty: as many as make up the embeddings.
    upto = accumulate((len(memory) for memory in memories[len(history) - shown :]), initial=0)
    of_memories = list(upto).index(embeddings)
    return Shown(of_memories, shown - of_memories)


def continuation(models: Models, rung: str, text: str, reply: int) -> Tensor:
    """Input embeddings [T, d] of a text that a rung is to go on with by so many tokens: as it is, without table 6 or template.

    A template's marks in it are the tokens that they stand for. InputError where it has no room.
    """
    with models.rung(rung) as model:
        ids = torch.tensor(model.tokenizer(text)["input_ids"], dtype=torch.long)
        if model.window is not None and len(ids) + reply > model.window:
            raise InputError(
                f"prompt: {len(ids):,} tokens have no room with {reply:,} more in the LLM's window of {model.window:,}; "
                "shorten it"
            )
        with torch.no_grad():
            return embed(model.llm, [ids])
