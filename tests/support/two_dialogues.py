"""A store of two short dialogues written by hand: what stands between shards and models is compared with these lines.

FIRST is MELD's: a speaker goes on (turns 2 and 3), a turn is missing (4), a third person joins (5). SECOND is IEMOCAP's.
Every text is unlike every other one, so that it tells its turn wherever it turns up.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.shards import pack_array, utterance_to_row
from storage.store import Ref, Store
from storage.utterance import Utterance
from tasks.engine.item import Workspace
from tasks.stages.shards import write_shard

FIRST = {
    0: ("Ross", "Where did my umbrella go?", "neutral"),
    1: ("Monica", "It burned in the fireplace, I am afraid.", "sad"),
    2: ("Ross", "You set fire to it on purpose!", "angry"),
    3: ("Ross", "Say something.", None),
    5: ("Joey", "Pizza has arrived!", "happy"),
    6: ("Monica", "Nobody here ordered any, send that awful man away.", "angry"),
}
SECOND = {
    0: ("F", "My luggage is lost.", "sad"),
    1: ("M", "Which flight was it?", "neutral"),
    2: ("F", "The late one from Denver.", None),
    3: ("M", "Calm down, they always find it.", "happy"),
}
"""Turn -> speaker, text, emotion."""

EXCHANGES = {"meld": {0: 1, 1: 2, 5: 6}, "iemocap": {0: 1, 1: 2, 2: 3}}
"""Dataset -> turn of the sentence -> turn of its reply, cut by hand: not 2 (its speaker goes on), not 3 (a gap)."""

FALLEN_OUT = {"meld": {"same_speaker": 1, "gap": 1}, "iemocap": {}}

CLIPS = {"meld": {0: "av", 1: "a", 5: "v"}, "iemocap": {0: "av", 2: "a"}}
"""Dataset -> turn -> which of audio and video it has. Features are as many rows of one number as `mark` says."""

LINES = {"meld": FIRST, "iemocap": SECOND}
DIALOGUE = {"meld": "17", "iemocap": "Ses01F_impro01"}


@dataclass(frozen=True)
class TwoDialogues:
    """The store and its shards."""

    work: Workspace
    utterances: list[Ref]
    exchanges: list[Ref]
    features: list[Ref]

    @property
    def store(self) -> Store:
        return self.work.store

    def tree(self, name: str) -> Ref:
        """A folder in the store with one file that says its name: stands for weights."""
        folder = self.store.root.parent / name
        folder.mkdir()
        (folder / "name").write_text(name)
        return self.store.put_tree(name, folder)


def two_dialogues(
    folder: Path, meld: Sequence[str], iemocap: Sequence[str], selected: Collection[int] | None = None
) -> TwoDialogues:
    """Each dialogue in each of the splits named. selected: turns of the exchanges that are; None: all."""
    work = Workspace(Store(folder / "store"), None, "basis", lambda *_: None)
    tables: dict[str, list[Ref]] = {"utterances": [], "exchanges": [], "features": []}
    for dataset, splits in (("meld", meld), ("iemocap", iemocap)):
        for split in splits:
            rows = {
                "utterances": [utterance_to_row(utterance(dataset, split, turn)) for turn in LINES[dataset]],
                "exchanges": [exchange(dataset, split, turn, selected) for turn in EXCHANGES[dataset]],
                "features": [clip(dataset, split, turn) for turn in CLIPS[dataset]],
            }
            for table, found in rows.items():
                name = f"{table}/{dataset}/{split}/0"
                tables[table].append(write_shard(work.store, table, name, found))
    return TwoDialogues(work, **tables)


def place(dataset: str, split: str, turn: int) -> dict:
    return {"dataset": dataset, "split": split, "dialogue_id": DIALOGUE[dataset], "turn": turn}


def text(dataset: str, turn: int) -> str:
    return LINES[dataset][turn][1]


def emotion(dataset: str, turn: int) -> str | None:
    return LINES[dataset][turn][2]


def utterance(dataset: str, split: str, turn: int) -> Utterance:
    speaker, said, felt = LINES[dataset][turn]
    return Utterance(
        **place(dataset, split, turn), speaker=speaker, text=said, emotion=felt, emotion_raw=felt
    )


def exchange(dataset: str, split: str, turn: int, selected: Collection[int] | None = None) -> dict:
    reply = EXCHANGES[dataset][turn]
    return {
        **place(dataset, split, turn),
        "sentence": text(dataset, turn),
        "reply": text(dataset, reply),
        "sentence_emotion": emotion(dataset, turn),
        "reply_emotion": emotion(dataset, reply),
        "sentence_speaker": LINES[dataset][turn][0],
        "reply_speaker": LINES[dataset][reply][0],
        "selected": selected is None or turn in selected,
    }


def mark(dataset: str, turn: int) -> int:
    """The number that fills a turn's audio; its video has a half more."""
    return turn + (1 if dataset == "meld" else 11)


def clip(dataset: str, split: str, turn: int) -> dict:
    here, number = CLIPS[dataset][turn], mark(dataset, turn)
    audio, audio_shape = pack_array(np.full((number, 3), number) if "a" in here else None)
    video, video_shape = pack_array(np.full((number, 4), number + 0.5) if "v" in here else None)
    row = {"media_digest": "d", "audio": audio, "audio_shape": audio_shape}
    return {**place(dataset, split, turn), **row, "video": video, "video_shape": video_shape}


def said(history: Sequence) -> list[str]:
    """The bare texts of a history's utterances, whatever tells their roles."""
    lines = [line if isinstance(line, str) else getattr(line, "text", line) for line in history]
    return [re.sub(r"^(gpt|human\d*): ", "", line) for line in lines]


def before(dataset: str, turn: int) -> list[str]:
    """What was said before a turn, oldest first."""
    return [text(dataset, earlier) for earlier in LINES[dataset] if earlier < turn]


def after(dataset: str, turn: int) -> list[str]:
    """What was said after a turn: the true reply, and all that no prompt for it may hold."""
    return [text(dataset, later) for later in LINES[dataset] if later > turn]
