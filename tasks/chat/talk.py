"""A person's turns and a run's answers: what the terminal and the page show, and what is saved.

One turn at a time. Knows nothing of how it is shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from torch import Tensor

from model.generation.settings import Sampling
from storage.errors import InputError
from tasks.chat.clips import Decoded, Heard, features
from tasks.chat.conversation import Conversation, HistorySize
from tasks.chat.engine import Engine, Reply
from tasks.chat.text import utterance
from tasks.chat.weights import Trained

PERSON, CHATBOT = 0, 1
"""Their places by order of appearance: the person begins."""
RECALLED = 5
"""Utterances that are read back at once, as in figure 11."""


@dataclass
class Answer:
    """A rung's reply. ended: None while it is made; else "stop", "length" (cut at its limit) or "stopped". first_s: seconds
    from the turn to its first words; None before them."""

    rung: str
    text: str = ""
    ended: str | None = None
    first_s: float | None = None


@dataclass
class Turn:
    """What a person said and what was answered; the first answer is the one that the conversation goes on from.

    clip: its seconds, and whether it is heard and seen. emotion: likelihoods of the seven, likeliest first.
    """

    text: str
    clip: dict | None = None
    emotion: dict[str, float] | None = None
    answers: list[Answer] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    history: HistorySize | None = None
    failed: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.failed is not None or (
            self.history is not None and all(a.ended is not None for a in self.answers)
        )

    def as_dict(self) -> dict:
        """As JSON."""
        return asdict(self)


Changed = Callable[[Turn], None]
"""Called with a turn of which there is more, from whatever thread."""


class Talk:
    """One person's conversation with a run."""

    def __init__(self, engine: Engine, found: Trained, rung: str, sampling: Sampling):
        self.engine, self.found, self.sampling = engine, found, sampling
        self.rung = rung
        self.beside: str | None = None
        """Another rung that answers too."""
        self.turns: list[Turn] = []
        self.conversation = Conversation(found.settings.dialogue.max_history_utterances)
        self._replies: list[Reply] = []
        self._stopped = threading.Event()
        """Somebody stopped the turn under way, whether or not its replies are being made yet."""
        self._busy = threading.Lock()

    def say(self, text: str, clip: Decoded | None = None, changed: Changed = lambda turn: None) -> Turn:
        """A turn, from what is said to the end of its answers. InputError, and nothing is said, where it cannot be given
        to the model; or where the turn before has not ended."""
        if not self._busy.acquire(blocking=False):
            raise InputError("a reply is being made; wait for it, or stop it")
        self._stopped.clear()
        try:
            line, notes = utterance(text)
            turn = Turn(line, notes=[*notes, *(clip.notes if clip else ())])
            self._answer(turn, clip, changed)
            return turn
        finally:
            self._replies = []
            self._busy.release()

    def stop(self) -> None:
        """End the replies under way where they are; where none is made yet, none will be. From any thread."""
        self._stopped.set()
        for reply in self._replies:
            reply.stop()

    def recall(self) -> list[tuple[str, str]]:
        """The last utterances, and what the rung's memories give back of them."""
        return self.engine.call(lambda models: self.conversation.recall(models, self.rung, RECALLED)).result()

    def size(self) -> HistorySize:
        """What the rung has of the conversation."""
        limit = self.sampling.max_new_tokens
        return self.engine.call(lambda models: self.conversation.size(models, self.rung, limit)).result()

    def saved(self) -> dict:
        """The conversation as JSON."""
        return {
            "rung": self.rung,
            "sampling": self.sampling.model_dump(),
            "turns": [turn.as_dict() for turn in self.turns],
        }

    def _answer(self, turn: Turn, clip: Decoded | None, changed: Changed) -> None:
        began = time.monotonic()
        heard = None if clip is None else self._heard(turn, clip)
        rungs = [self.rung, *([self.beside] if self.beside not in (None, self.rung) else [])]
        prompts = [self._prompt(rung, turn.text, heard) for rung in rungs]
        turn.answers = [Answer(rung) for rung in rungs]
        self.turns.append(turn)
        changed(turn)
        try:
            if heard is not None:  # what was seen and heard is shown before what is made of it
                self._recognise(turn, heard, changed)
            self._reply(turn, prompts, began, changed)
            self._remember(turn)
            if heard is None:
                self._recognise(turn, None, changed)
            turn.history = self.size()
        except BaseException as error:
            turn.failed = str(error) or type(error).__name__
            raise
        finally:
            changed(turn)

    def _reply(self, turn: Turn, prompts: Sequence[Tensor], began: float, changed: Changed) -> None:
        """The turn's answers, to their ends. One that was stopped while the turn was read is never begun."""
        if self._stopped.is_set():
            for answer in turn.answers:
                answer.ended = "stopped"
            changed(turn)
            return
        sampling = self.sampling.model_copy(update={"seed": self.sampling.seed + len(self.turns)})
        self._replies = [
            self.engine.reply(answer.rung, prompt, sampling, _shows(turn, answer, began, changed))
            for prompt, answer in zip(prompts, turn.answers, strict=True)
        ]
        if self._stopped.is_set():  # by somebody who found none of these yet
            self.stop()
        for reply, answer in zip(self._replies, turn.answers, strict=True):
            answer.text, answer.ended = reply.done.result(), reply.ended
            changed(turn)

    def _heard(self, turn: Turn, clip: Decoded) -> Heard:
        heard = self.engine.call(lambda models: features(clip, models)).result()
        turn.clip = {
            "seconds": round(heard.seconds, 2), "heard": heard.audio is not None, "seen": heard.video is not None
        }  # fmt: skip
        if self.found.extractor is None:
            turn.notes.append("the run was trained without clips: this one changes nothing")
        elif self.found.rungs[self.rung].extractor is None:
            turn.notes.append(f"{self.rung} is not given clips: the emotion is recognised beside it")
        return heard

    def _prompt(self, rung: str, text: str, heard: Heard | None) -> Tensor:
        limit = self.sampling.max_new_tokens
        return self.engine.call(lambda m: self.conversation.prompt(m, rung, text, heard, limit)).result()

    def _recognise(self, turn: Turn, heard: Heard | None, changed: Changed) -> None:
        audio, video = (None, None) if heard is None else (heard.audio, heard.video)
        turn.emotion = self.engine.call(lambda models: models.emotions(turn.text, audio, video)).result()
        changed(turn)

    def _remember(self, turn: Turn) -> None:
        """The turn and its answer become part of the history; an answer without words is none."""
        self.conversation.add(turn.text, PERSON)
        line = " ".join(turn.answers[0].text.split())  # an utterance is one line
        if line:
            self.conversation.add(line, CHATBOT)
        else:
            turn.notes.append(f"{turn.answers[0].rung} said nothing")
        self.engine.call(lambda models: self.conversation.read(models, self.rung)).result()


def _shows(turn: Turn, answer: Answer, began: float, changed: Changed) -> Callable[[str], None]:
    def more(text: str) -> None:
        if answer.first_s is None:
            answer.first_s = round(time.monotonic() - began, 3)
        answer.text = text
        changed(turn)

    return more
