"""Stages `ladder.fit.ARM`: an adapter for one way of giving the history. Knows nothing of the method itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

from model.dialogue.settings import DialogueSettings
from model.dialogue.train import train_dialogue
from model.settings import TrainingSettings
from model.zoo.resolve import resolve
from storage.store import Ref
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.dialogue.fit import reader_to_start_from
from tasks.stages.examples import dialogue_examples, that_choose
from tasks.stages.ladder.arms import ARMS, ArmName


def fit_arm(
    arm: ArmName,
    utterances: list[Ref],
    exchanges: list[Ref],
    compressor: Ref | None,
    dialogue: DialogueSettings,
    training: TrainingSettings,
    llm: Weights,
    work: Workspace,
    start: Ref | None = None,
    stand_ins: tuple[str, ...] = (),
    reader_of: Ref | None = None,
) -> list[Ref]:
    """A LoRA of the arm's own, on the rows and at the steps of all arms. Output: the folder "adapter".

    start: the arm's adapter of last time, to go on from. reader_of: the compressor whose reader it starts from otherwise;
    None: it starts anew. stand_ins: as for the dialogue stages.
    """
    chosen = ARMS[arm]
    begin = work.folder(start)
    if begin is None and reader_of is not None:
        begin = reader_to_start_from(work.folder(reader_of), dialogue)
    train = dialogue_examples(work.store, utterances, exchanges, [], "train")
    heldout = dialogue_examples(work.store, utterances, exchanges, [], "dev")
    heldout = that_choose(heldout, work.store, utterances, stand_ins)
    with tempfile.TemporaryDirectory() as folder:
        train_dialogue(
            resolve(llm.name),
            train,
            heldout,
            chosen.settings(dialogue).model_copy(update={"training": training, "start_from_reader": False}),
            Path(folder),
            history=chosen.history,
            compressor=work.folder(compressor),
            progress=work.progress,
            checkpoints=work.checkpoints(),
            start=begin,
            shared_schedule=True,
        )
        return [work.store.put_tree("adapter", Path(folder), rows=len(train))]
