"""Stages `dialogue.…`, one per rung of the ladder (table 2): the dialogue LoRA. Knows nothing of the method itself."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from model.adapter import AdapterError
from model.compressor.reader import checked_reader
from model.dialogue.settings import DialogueSettings
from model.dialogue.train import train_dialogue
from model.zoo.resolve import resolve
from storage.errors import InputError
from storage.store import Ref
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.examples import dialogue_examples, that_choose


def fit_dialogue(
    utterances: list[Ref],
    exchanges: list[Ref],
    features: list[Ref],
    compressor: Ref | None,
    extractor: Ref | None,
    history: Literal["text", "memory"],
    settings: DialogueSettings,
    llm: Weights,
    work: Workspace,
    start: Ref | None = None,
    stand_ins: tuple[str, ...] = (),
) -> list[Ref]:
    """A new LoRA from the LLM. Output: the folder "adapter".

    stand_ins: the datasets whose dev is evaluated on too, in other dialogues than those that choose here.
    """
    train = dialogue_examples(work.store, utterances, exchanges, features, "train")
    heldout = dialogue_examples(work.store, utterances, exchanges, features, "dev")
    heldout = that_choose(heldout, work.store, utterances, stand_ins)
    by_reader = settings.start_from_reader and settings.memory == "mamba" and history == "memory"
    if by_reader and start is None:
        reader_to_start_from(work.folder(compressor), settings)  # refused before anything is loaded
    with tempfile.TemporaryDirectory() as folder:
        train_dialogue(
            resolve(llm.name),
            train,
            heldout,
            settings,
            Path(folder),
            history=history,
            compressor=work.folder(compressor),
            extractor=work.folder(extractor),
            progress=work.progress,
            checkpoints=work.checkpoints(),
            start=work.folder(start),
        )
        return [work.store.put_tree("adapter", Path(folder), rows=len(train))]


def reader_to_start_from(compressor: Path | None, settings: DialogueSettings) -> Path:
    """The folder of the compressor's reader; InputError where an adapter of these settings cannot start from it."""
    try:
        return checked_reader(compressor, settings.rank, settings.alpha, settings.target_modules)
    except AdapterError as error:
        raise InputError(str(error)) from None
