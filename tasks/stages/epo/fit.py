"""Stage `epo`: the dialogue adapter, continued on preference pairs. Knows nothing of the method itself."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from model.dialogue.dialogue import COMPRESSOR, load_dialogue, own_compressor
from model.dialogue.examples import DialogueExample, PreferenceExample
from model.dialogue.settings import DialogueSettings
from model.epo.settings import EpoSettings
from model.epo.train import train_epo
from model.zoo.resolve import resolve
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
    other_pairs: Sequence[Ref] = (),
) -> list[Ref]:
    """Train pairs teach, dev pairs choose the checkpoint. Output: the folder "adapter".

    other_pairs: those of the training that this one is compared with; both take the exchanges that both have pairs
    of, and leave out the others.
    """
    examples = {
        e.key: e for e in dialogue_examples(work.store, utterances, exchanges, features, "train", "dev")
    }
    (train, lone_train), (heldout, lone_heldout) = (
        _preferences(work, pairs, other_pairs, examples, split) for split in ("train", "dev")
    )
    left_out = {"train": {"not_in_both": lone_train}, "heldout": {"not_in_both": lone_heldout}}
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
            left_out if other_pairs else None,
        )  # fmt: skip
        goes_along = own_compressor(work.folder(adapter))
        if goes_along is not None:  # it learnt with the adapter that this one goes on from
            shutil.copytree(goes_along, Path(folder) / COMPRESSOR)
        return [work.store.put_tree("adapter", Path(folder), rows=len(train))]


def _preferences(
    work: Workspace,
    pairs: Sequence[Ref],
    other_pairs: Sequence[Ref],
    examples: dict[str, DialogueExample],
    split: str,
) -> tuple[list[PreferenceExample], int]:
    """The split's pairs by key, and how many were left out because the other training has none of their exchange."""
    own = sorted(map(row_to_pair, read_rows(work.store, pairs, "pairs", split)), key=lambda pair: pair.key)
    others = map(row_to_pair, read_rows(work.store, other_pairs, "pairs", split))
    beside = {pair.key: (pair.rejected,) for pair in others}
    kept = [pair for pair in own if pair.key in beside] if other_pairs else own
    found = [
        PreferenceExample(examples[key_text(pair.key)], pair.rejected, beside.get(pair.key, ()))
        for pair in kept
    ]
    return found, len(own) - len(kept)
