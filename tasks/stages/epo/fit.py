"""Stage `epo`: the dialogue adapter, continued on preference pairs. Knows nothing of the method itself."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from model.dialogue.dialogue import COMPRESSOR, load_dialogue, own_compressor
from model.dialogue.examples import DialogueExample, PreferenceExample
from model.dialogue.settings import DialogueSettings
from model.epo.settings import EpoSettings
from model.epo.train import train_epo
from model.zoo.resolve import resolve
from storage.answers import Pair
from storage.shards import row_to_pair
from storage.store import Ref
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.examples import dialogue_examples, key_text
from tasks.stages.shards import read_rows


def fit_epo(
    pairs: list[Ref],
    utterances: list[Ref],
    exchanges: list[Ref],
    features: list[Ref],
    adapter: Ref,
    compressor: Ref | None,
    extractor: Ref | None,
    dialogue: DialogueSettings,
    settings: EpoSettings,
    llm: Weights,
    work: Workspace,
    other_pairs: Mapping[str, list[Ref]] | None = None,
    preference: bool = True,
    follows: Ref | None = None,
) -> list[Ref]:
    """Train pairs teach, dev pairs choose the checkpoint. Output: the folder "adapter".

    other_pairs: of each training that this one is compared with; all take the exchanges that all have pairs of, and
    leave out the others. preference: whether there is a preference term. follows: the adapter of the training whose
    steps this one takes, up to the one that it kept.
    """
    examples = {
        e.key: e for e in dialogue_examples(work.store, utterances, exchanges, features, "train", "dev")
    }
    (train, lone_train), (heldout, lone_heldout) = (
        _preferences(work, pairs, other_pairs or {}, examples, split) for split in ("train", "dev")
    )
    left_out = {"train": {"not_in_all": lone_train}, "heldout": {"not_in_all": lone_heldout}}
    if not preference:
        settings = settings.model_copy(update={"preference_weight": 0.0})
    model = load_dialogue(
        resolve(llm.name),
        adapter=work.store.folder(adapter),
        compressor=work.folder(compressor),
        extractor=work.folder(extractor),
        history="memory",
        settings=dialogue,
        dtype=settings.training.dtype,
        trainable=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        train_epo(
            model, train, heldout, settings, Path(folder), work.progress, work.checkpoints(),
            left_out if other_pairs else None, _kept_step(work, follows),
        )  # fmt: skip
        goes_along = own_compressor(work.folder(adapter))
        if goes_along is not None:  # it learnt with the adapter that this one goes on from
            shutil.copytree(goes_along, Path(folder) / COMPRESSOR)
        return [work.store.put_tree("adapter", Path(folder), rows=len(train))]


def _preferences(
    work: Workspace,
    pairs: Sequence[Ref],
    other_pairs: Mapping[str, list[Ref]],
    examples: dict[str, DialogueExample],
    split: str,
) -> tuple[list[PreferenceExample], int]:
    """The split's pairs by key, and how many were left out because another training has none of their exchange."""
    own = sorted(_pairs(work, pairs, split).values(), key=lambda pair: pair.key)
    others = [_pairs(work, refs, split) for _, refs in sorted(other_pairs.items())]
    kept = [pair for pair in own if all(pair.key in other for other in others)]
    found = [
        PreferenceExample(
            examples[key_text(pair.key)],
            pair.rejected,
            tuple(text for other in others for text in (other[pair.key].chosen, other[pair.key].rejected)),
            None if pair.chosen == pair.reply else pair.chosen,
        )
        for pair in kept
    ]
    return found, len(own) - len(kept)


def _pairs(work: Workspace, refs: Sequence[Ref], split: str) -> dict[tuple, Pair]:
    return {pair.key: pair for pair in map(row_to_pair, read_rows(work.store, refs, "pairs", split))}


def _kept_step(work: Workspace, adapter: Ref | None) -> int | None:
    """The step whose weights a training kept, by its report; None of None."""
    if adapter is None:
        return None
    report = json.loads((work.store.folder(adapter) / "report.json").read_text(encoding="utf-8"))
    return report["history"]["best_step"]
