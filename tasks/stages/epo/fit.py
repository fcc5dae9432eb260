"""Stage `epo`: the dialogue adapter, continued on preference pairs. Knows nothing of the method itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

from model.dialogue.dialogue import load_dialogue
from model.dialogue.examples import DialogueExample, PreferenceExample
from model.dialogue.settings import DialogueSettings
from model.epo.settings import EpoSettings
from model.epo.train import train_epo
from model.zoo.resolve import resolve
from storage.store import Ref
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.examples import dialogue_examples, key_text, row_key
from tasks.stages.shards import read_rows


def fit_epo(
    pairs: list[Ref],
    utterances: list[Ref],
    exchanges: list[Ref],
    features: list[Ref],
    adapter: Ref,
    compressor: Ref,
    extractor: Ref | None,
    dialogue: DialogueSettings,
    settings: EpoSettings,
    llm: Weights,
    work: Workspace,
) -> list[Ref]:
    """Train pairs teach, dev pairs choose the checkpoint. Output: the folder "adapter"."""
    examples = {
        e.key: e for e in dialogue_examples(work.store, utterances, exchanges, features, "train", "dev")
    }
    train, heldout = (_preferences(work, pairs, examples, split) for split in ("train", "dev"))
    model = load_dialogue(
        resolve(llm.name),
        adapter=work.store.folder(adapter),
        compressor=work.store.folder(compressor),
        extractor=work.folder(extractor),
        history="memory",
        settings=dialogue,
        dtype=settings.training.dtype,
        trainable=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        train_epo(model, train, heldout, settings, Path(folder), work.progress, work.checkpoints())
        return [work.store.put_tree("adapter", Path(folder), rows=len(train))]


def _preferences(
    work: Workspace, pairs: list[Ref], examples: dict[str, DialogueExample], split: str
) -> list[PreferenceExample]:
    rows = sorted(read_rows(work.store, pairs, "pairs", split), key=row_key)
    return [PreferenceExample(examples[key_text(row_key(row))], row["rejected"]) for row in rows]
