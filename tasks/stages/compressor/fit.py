"""Stages `compressor.pretrain` and `compressor.finetune`. Knows nothing of the method itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

from model.accelerator import too_slow
from model.compressor.scans import scan_of
from model.compressor.settings import CompressorSettings
from model.compressor.train import adopt, finetune, pretrain
from model.device import best_device
from model.spoken import Spoken
from model.zoo.resolve import resolve
from storage.errors import InputError
from storage.store import Ref
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.examples import read_dialogues, spoken
from tasks.stages.stand_in import DialogueKey, choosing


def pretrain_compressor(
    utterances: list[Ref],
    settings: CompressorSettings,
    base: Weights | None,
    llm: Weights,
    work: Workspace,
    allow_slow_scan: bool = True,
    start: Ref | None = None,
    stand_ins: tuple[str, ...] = (),
) -> list[Ref]:
    """Single utterances (section 3.2, first step). Output: the folder "compressor".

    allow_slow_scan: else InputError on a GPU whose kernels do not scan in this process. base: what identifies the weights that `settings` names, if any; they are resolved by that name. A pretrained
    compressor is measured and handed on. stand_ins: the datasets whose dev is evaluated on too, in other dialogues
    than those that choose here.
    """
    _check_scan(allow_slow_scan)
    chosen = _choosing(work, utterances, stand_ins)
    heldout = [utterance.text for dialogue in chosen for utterance in dialogue]
    dialogues = [number for number, dialogue in enumerate(chosen) for _ in dialogue]
    with tempfile.TemporaryDirectory() as folder:
        if settings.pretrained:
            assert base is not None, "the stage hands over what identifies the pretrained weights"
            adopt(resolve(llm.name), resolve(base.name), heldout, settings, Path(folder), dialogues)
            return [work.store.put_tree("compressor", Path(folder), rows=0)]
        train = [utterance.text for d in _dialogues(work, utterances, "train").values() for utterance in d]
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
    utterances: list[Ref],
    compressor: Ref,
    settings: CompressorSettings,
    llm: Weights,
    work: Workspace,
    allow_slow_scan: bool = True,
    stand_ins: tuple[str, ...] = (),
) -> list[Ref]:
    """Whole dialogues (section 3.2, second step). Output: the folder "compressor". allow_slow_scan: as in pretraining."""
    _check_scan(allow_slow_scan)
    train = list(_dialogues(work, utterances, "train").values())
    heldout = _choosing(work, utterances, stand_ins)
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


def _check_scan(allow_slow: bool) -> None:
    """Raises InputError where this process, which trains, is left with the slow scan on a GPU.

    The run has asked before it began (preflight), in another process and perhaps on another machine.
    """
    chosen = scan_of(best_device().type)
    if chosen.slow and not allow_slow:
        raise InputError(too_slow(chosen.line))


def _choosing(work: Workspace, utterances: list[Ref], stand_ins: tuple[str, ...]) -> list[tuple[Spoken, ...]]:
    """Dev's dialogues that the checkpoint may be chosen on."""
    dialogues = _dialogues(work, utterances, "dev")
    may = choosing(dialogues, stand_ins)
    return [dialogue for key, dialogue in dialogues.items() if key in may]


def _dialogues(work: Workspace, utterances: list[Ref], split: str) -> dict[DialogueKey, tuple[Spoken, ...]]:
    return {key: spoken(d) for key, d in read_dialogues(work.store, utterances, split).items()}
