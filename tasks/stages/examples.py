"""Rows of the shards -> what the models learn from: dialogues, exchanges with history and features, pairs.

Knows nothing of training or of prompts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from model.dialogue.examples import DialogueExample
from model.extractor.train import EmotionExample
from model.features.stored import Stored
from model.spoken import Spoken
from storage.exchanges import roles
from storage.shards import FEATURE_BLOBS, read_blob, read_table, row_to_utterance, unpack_array
from storage.store import Ref, Store
from storage.tables import KEY_COLUMNS
from storage.utterance import Utterance
from tasks.stages.shard_names import of_table
from tasks.stages.shards import RowKey, dialogue_keys, read_rows, row_key
from tasks.stages.stand_in import choosing, evaluated

Example = TypeVar("Example", DialogueExample, EmotionExample)


def key_text(key: tuple) -> str:
    """A key as one word, for messages: meld/train/12/3."""
    return "/".join(str(part) for part in key)


def read_dialogues(
    store: Store, refs: Iterable[Ref], *splits: str
) -> dict[tuple[str, str, str], list[Utterance]]:
    """Utterances by dialogue, in the order of their turns."""
    utterances = sorted(
        map(row_to_utterance, read_rows(store, refs, "utterances", *splits)), key=lambda u: u.key
    )
    return {key: list(members) for key, members in groupby(utterances, key=lambda u: u.key[:3])}


def spoken(dialogue: list[Utterance]) -> tuple[Spoken, ...]:
    """The dialogue's utterances as the models are given them."""
    places = roles(dialogue)
    return tuple(Spoken(u.text, places[u.speaker]) for u in dialogue)


def tagged(dialogue: list[Utterance]) -> tuple[str, ...]:
    """Role-tagged lines as in figure 11, for what reads text: "gpt: …", "human: …"."""
    return tuple(utterance.line for utterance in spoken(dialogue))


def read_features(
    store: Store, refs: Iterable[Ref], *splits: str
) -> dict[RowKey, tuple[Stored | None, Stored | None]]:
    """Key -> (audio states [Ta, da], frame tokens [Tv, dv]), half precision, each read when a batch needs it.

    Of the shards the keys and shapes are read here; that they are whole is checked too.
    """
    found: dict[RowKey, tuple[Stored | None, Stored | None]] = {}
    shapes = [f"{name}_shape" for name in FEATURE_BLOBS]
    for ref in of_table(refs, "features", *splits):
        path = store.path(ref)
        for place, row in enumerate(read_table(path, "features", [*KEY_COLUMNS, *shapes])):
            audio, video = (_stored(path, place, name, row[f"{name}_shape"]) for name in FEATURE_BLOBS)
            found[row_key(row)] = audio, video
    return found


def _stored(path: Path, place: int, name: str, shape: list[int] | None) -> Stored | None:
    if shape is None:
        return None
    states, width = shape
    return Stored((states, width), partial(_read_clip, path, place, name, (states, width)))


def _read_clip(path: Path, place: int, name: str, shape: tuple[int, int]) -> Tensor:
    array = unpack_array(read_blob(path, place, name), shape)
    assert array is not None, "a blob and its shape are there"
    return torch.from_numpy(array.copy())


def dialogue_examples(
    store: Store, utterances: list[Ref], exchanges: list[Ref], features: list[Ref], *splits: str
) -> list[DialogueExample]:
    """Every exchange of the splits with its history and, where the sentence has media, its features; by key."""
    histories: dict[RowKey, tuple[Spoken, ...]] = {}
    for dialogue in read_dialogues(store, utterances, *splits).values():
        said = spoken(dialogue)
        for position, utterance in enumerate(dialogue):
            histories[utterance.key] = said[:position]
    media = read_features(store, features, *splits)
    examples = []
    for row in sorted(read_rows(store, exchanges, "exchanges", *splits), key=row_key):
        audio, video = media.get(row_key(row), (None, None))
        examples.append(
            DialogueExample(
                key=key_text(row_key(row)),
                history=histories[row_key(row)],
                sentence=row["sentence"],
                reply=row["reply"],
                audio=audio,
                video=video,
                dialogue=key_text(row_key(row)[:3]),
            )
        )
    return examples


def that_are_evaluated(
    examples: list[Example], store: Store, utterances: list[Ref], stand_ins: Collection[str]
) -> list[Example]:
    """Examples of test, and of dev those of dialogues that give numbers (tasks/stages/stand_in.py)."""
    may = evaluated(dialogue_keys(read_rows(store, utterances, "utterances", "dev")), stand_ins)
    dialogues = {"/".join(key) for key in may}
    return [e for e in examples if e.key.split("/")[1] == "test" or e.key.rpartition("/")[0] in dialogues]


def that_choose(
    examples: list[Example], store: Store, utterances: list[Ref], stand_ins: Collection[str]
) -> list[Example]:
    """Of dev's examples those of dialogues that checkpoints may be chosen on (tasks/stages/stand_in.py)."""
    if not stand_ins:
        return examples
    may = choosing(dialogue_keys(read_rows(store, utterances, "utterances", "dev")), stand_ins)
    dialogues = {"/".join(key) for key in may}
    return [example for example in examples if example.key.rpartition("/")[0] in dialogues]


def emotion_examples(
    store: Store,
    utterances: list[Ref],
    features: list[Ref],
    *splits: str,
    single_clips: Collection[str] = (),
) -> list[EmotionExample]:
    """Every labelled utterance of the splits that has features; by key. What is alike is a dialogue, and of the
    datasets of `single_clips` an actor."""
    media = read_features(store, features, *splits)
    rows = [row_to_utterance(row) for row in read_rows(store, utterances, "utterances", *splits)]
    return [
        EmotionExample(
            key=key_text(u.key),
            audio=media[u.key][0],
            video=media[u.key][1],
            sentence=u.text,
            emotion=u.emotion,
            dataset=u.dataset,
            dialogue=key_text((*u.key[:2], u.speaker if u.dataset in single_clips else u.dialogue_id)),
        )
        for u in sorted(rows, key=lambda u: u.key)
        if u.emotion is not None and u.key in media
    ]
