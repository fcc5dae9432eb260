"""Stage `extractor`: labelled clips -> the audio-visual emotion extractor. Knows nothing of the method itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

from model.extractor.settings import ExtractorSettings
from model.extractor.train import train_extractor
from model.zoo.resolve import resolve
from storage.store import Ref
from tasks.engine.declaration import Weights
from tasks.engine.item import Workspace
from tasks.stages.examples import emotion_examples, that_choose


def fit_extractor(
    utterances: list[Ref],
    features: list[Ref],
    settings: ExtractorSettings,
    llm: Weights,
    work: Workspace,
    start: Ref | None = None,
    stand_ins: tuple[str, ...] = (),
    single_clips: tuple[str, ...] = (),
) -> list[Ref]:
    """Train on train; dev chooses the checkpoint. Output: "extractor".

    start: see tasks/engine/retrain.py, as in every trained stage. stand_ins: the datasets whose dev replies are
    evaluated on, in other dialogues than those that choose here.
    """
    train = emotion_examples(work.store, utterances, features, "train", single_clips=single_clips)
    heldout = emotion_examples(work.store, utterances, features, "dev", single_clips=single_clips)
    heldout = that_choose(heldout, work.store, utterances, stand_ins)
    with tempfile.TemporaryDirectory() as folder:
        train_extractor(
            resolve(llm.name),
            train,
            heldout,
            settings,
            Path(folder),
            work.progress,
            work.checkpoints(),
            start=work.folder(start),
        )
        return [work.store.put_tree("extractor", Path(folder), rows=len(train))]
