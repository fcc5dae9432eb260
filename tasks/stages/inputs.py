"""What the declarations share: finding the shards a stage looks at among what its needs have made. Reads no shard."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from storage.readers.registry import SINGLE_CLIPS
from storage.store import Ref
from tasks.engine.declaration import Calls, Made, NotRun
from tasks.stages import stand_in
from tasks.stages.shard_names import of_table, place

TORCH = ("torch", "transformers")
NO_MEDIA = "no media: no utterance has a clip"
NO_DIALOGUES = "no dialogues: only single clips were read"

Items = Callable[[Made], Calls | NotRun]


def of_dialogues(items: Items) -> Items:
    """For a stage that has nothing to do where only single clips were read (RAVDESS, CREMA-D)."""

    @wraps(items)
    def unless_none(made: Made) -> Calls | NotRun:
        without = "utterances" in made.outputs and not dialogue_shards(made)
        if without or all(outputs is None for outputs in made.outputs.values()):
            return NotRun(NO_DIALOGUES)
        return items(made)

    return unless_none


def dialogue_shards(made: Made, *splits: str) -> list[Ref]:
    """The utterance shards that hold dialogues. Single clips teach the extractor and nothing else."""
    return of_dialogue_sets(of_table(made.refs("utterances"), "utterances", *splits))


def of_dialogue_sets(refs: list[Ref]) -> list[Ref]:
    return [ref for ref in refs if place(ref)[0] not in SINGLE_CLIPS]


def stand_ins(made: Made) -> tuple[str, ...]:
    """The datasets of dialogues whose dev stands in for the test split that they lack."""
    return stand_in.stand_ins(dialogue_shards(made))


def seen_as(view: str, refs: list[Ref]) -> list[Ref]:
    """The shards by a view of theirs: only its columns make a stage stale (storage/tables.py)."""
    return [ref.seen_as(view) for ref in refs]


def label(ref: Ref) -> str:
    """A shard's item label: its name without the table."""
    return ref.name.split("/", 1)[1]


def exchange_shards(made: Made, *splits: str) -> list[Ref]:
    return of_table(made.refs("utterances.exchanges"), "exchanges", *splits)


def dialogue_features(made: Made, *splits: str) -> list[Ref]:
    """The features of dialogues; none where there is no media."""
    return of_dialogue_sets(of_table(made.refs("features"), "features", *splits))


def memory_compressor(made: Made) -> Ref | None:
    """The compressor that dialogue models are given; None where a memory is the mean of an utterance's embeddings."""
    return None if made.settings.dialogue.memory == "mean" else made.only("compressor.finetune")
