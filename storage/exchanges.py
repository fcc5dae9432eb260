"""Cut dialogues into exchanges: a sentence, and the reply that another speaker gives to it.

Knows nothing of datasets, files or models. The paper does not say how pairs are cut; this is the reading here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, pairwise

from storage.utterance import Utterance


@dataclass(frozen=True, slots=True)
class Exchange:
    """Turn `turn` of a dialogue (the sentence) and turn `turn` + 1 by another speaker (the reply).

    The history is every turn before the sentence, whoever spoke; it stays in the utterances.
    """

    dataset: str
    split: str
    dialogue_id: str
    turn: int
    sentence: str
    reply: str
    sentence_emotion: str | None
    reply_emotion: str | None
    sentence_speaker: str
    reply_speaker: str

    @property
    def key(self) -> tuple[str, str, str, int]:
        return (self.dataset, self.split, self.dialogue_id, self.turn)


def cut_exchanges(utterances: Iterable[Utterance]) -> tuple[list[Exchange], Counter[str]]:
    """All exchanges, sorted by key, and how many pairs of neighbours fell out, by reason.

    Reasons: `same_speaker` (both by one speaker) and `gap` (another speaker, but a turn id between them is
    missing). A pair is counted once, `same_speaker` first. Utterances may come in any order.
    """
    exchanges: list[Exchange] = []
    fallen: Counter[str] = Counter()
    ordered = sorted(utterances, key=lambda u: u.key)
    for _, dialogue in groupby(ordered, key=lambda u: u.key[:3]):
        for sentence, reply in pairwise(dialogue):
            if sentence.speaker == reply.speaker:
                fallen["same_speaker"] += 1
            elif reply.turn != sentence.turn + 1:
                fallen["gap"] += 1
            else:
                exchanges.append(
                    Exchange(
                        *sentence.key,
                        sentence=sentence.text,
                        reply=reply.text,
                        sentence_emotion=sentence.emotion,
                        reply_emotion=reply.emotion,
                        sentence_speaker=sentence.speaker,
                        reply_speaker=reply.speaker,
                    )
                )
    return exchanges, fallen


def roles(dialogue: Iterable[Utterance]) -> dict[str, int]:
    """Each speaker's role in one dialogue: the place, from 0, by order of appearance, fixed for the dialogue.

    A memory so does not depend on who replies.
    """
    places: dict[str, int] = {}
    for utterance in sorted(dialogue, key=lambda u: u.turn):
        places.setdefault(utterance.speaker, len(places))
    return places
