"""What the dialogue model learns from: an exchange with its history and, where there is media, its features.

Knows nothing of where rows come from or how they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from model.features.stored import Features
from model.spoken import Spoken


@dataclass(frozen=True)
class DialogueExample:
    """history: the utterances before the sentence, oldest first.

    audio: Whisper states [Ta, d_audio] or None; video: frame tokens [Tv, d_video] or None. dialogue: which one the
    exchange is of; "" where it stands alone.
    """

    key: str
    history: tuple[Spoken, ...]
    sentence: str
    reply: str
    audio: Features | None = None
    video: Features | None = None
    dialogue: str = ""

    @property
    def group(self) -> str:
        """What tells rows of one dialogue from those of another."""
        return self.dialogue or self.key

    def without_history(self) -> DialogueExample:
        """The same exchange as if nothing had been said before."""
        return replace(self, history=())


@dataclass(frozen=True)
class PreferenceExample:
    """An exchange and two replies to rank: y_a is `preferred`, y_i is counter_emotional.

    chosen: what stands for y_a in place of the true reply, example.reply, which the autoregressive term is of either
    way. beside: what stands for both in the trainings that this one is compared with. It is not learnt from; the
    prompt leaves room for it, so that the row is the same in all of them.
    """

    example: DialogueExample
    counter_emotional: str
    beside: tuple[str, ...] = ()
    chosen: str | None = None

    @property
    def preferred(self) -> str:
        return self.example.reply if self.chosen is None else self.chosen
