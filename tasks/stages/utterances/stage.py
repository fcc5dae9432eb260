"""Stages `utterances` and `utterances.exchanges`, declared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.store import Ref, Store
from tasks.engine.declaration import Calls, Made, NotRun, Reads, Stage
from tasks.stages.inputs import dialogue_shards, of_dialogues, seen_as


def datasets(made: Made) -> Calls:
    return {raw.dataset: {"source": raw} for raw in made.raw_files}


def changed_rows(arguments: dict[str, Any], outputs: tuple[Ref, ...], store: Store, root: Path) -> list[str]:
    from tasks.stages.utterances.write import changed_utterances  # the readers: only where a raw file changed

    return changed_utterances(**arguments, root=root, store=store, outputs=outputs)


UTTERANCES = Stage(
    name="utterances",
    title="Utterances",
    flow="build_shards",
    items=datasets,
    function="tasks.stages.utterances.write:write_utterances",
    settings={"settings": "data"},
    libraries=("pyarrow",),
    workers=2,
    explain=changed_rows,
)


@of_dialogues
def all_dialogues(made: Made) -> Calls | NotRun:
    return {"all": {"utterances": seen_as("labels", dialogue_shards(made))}}


EXCHANGES = Stage(
    name="utterances.exchanges",
    title="Exchanges",
    flow="build_shards",
    needs=("utterances",),
    items=all_dialogues,
    function="tasks.stages.utterances.exchanges:write_exchanges",
    settings={"candidates": Reads("candidates", only=("budget", "source", "dialogue", "emotions", "seed"))},
    libraries=("pyarrow",),
)
