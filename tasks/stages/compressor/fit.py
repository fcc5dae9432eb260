"""Stages `compressor.pretrain` and `compressor.finetune`. Knows nothing of the method itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

from model.compressor.settings import CompressorSettings
from model.compressor.train import adopt, finetune, pretrain
from model.zoo.resolve import resolve
from storage.store import Ref
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.examples import read_dialogues, tagged


def pretrain_compressor(
    utterances: list[Ref],
    settings: CompressorSettings,
    base: Weights | None,
    llm: Weights,
    work: Workspace,
    start: Ref | None = None,
) -> list[Ref]:
    """Single utterances (section 3.2, first step). Output: the folder "compressor".

    base: what identifies the weights that `settings` names, if any; they are resolved by that name. A pretrained
    compressor is measured and handed on.
    """
    spoken = _lines(work, utterances, "dev")
    heldout, dialogues = [line for d in spoken for line in d], [i for i, d in enumerate(spoken) for _ in d]
    with tempfile.TemporaryDirectory() as folder:
        if settings.pretrained:
            adopt(resolve(llm.name), resolve(base.name), heldout, settings, Path(folder), dialogues)
            return [work.store.put_tree("compressor", Path(folder), rows=0)]
        train = [line for d in _lines(work, utterances, "train") for line in d]
        pretrain(
            resolve(llm.name),
            train,
            heldout,
            settings,
            Path(folder),
            work.progress,
            start=work.folder(start),
            checkpoints=work.checkpoints(),
            dialogues=dialogues,
        )
        return [work.store.put_tree("compressor", Path(folder), rows=len(train))]


def finetune_compressor(
    utterances: list[Ref], compressor: Ref, settings: CompressorSettings, llm: Weights, work: Workspace
) -> list[Ref]:
    """Whole dialogues (section 3.2, second step). Output: the folder "compressor"."""
    train, heldout = _lines(work, utterances, "train"), _lines(work, utterances, "dev")
    start = work.store.folder(compressor)
    with tempfile.TemporaryDirectory() as folder:
        finetune(
            resolve(llm.name),
            start,
            train,
            heldout,
            settings,
            Path(folder),
            work.progress,
            work.checkpoints(),
        )
        return [work.store.put_tree("compressor", Path(folder), rows=len(train))]


def _lines(work: Workspace, utterances: list[Ref], split: str) -> list[tuple[str, ...]]:
    return [tagged(dialogue) for dialogue in read_dialogues(work.store, utterances, split).values()]
