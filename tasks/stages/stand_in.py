"""Where a dataset has no test split its dev stands in for it: some of dev's dialogues choose, the others are evaluated.

What chose a checkpoint or a pair is so never evaluated on. Dialogues are parted whole, by their hash, for their
exchanges share words. Knows nothing of stages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from storage.readers.common import hold_out
from storage.store import Ref
from tasks.stages.shard_names import place

DialogueKey = tuple[str, str, str]
"""dataset, split, dialogue id"""
SHARE = 0.5
"""Of dev's dialogues are evaluated on."""


def stand_ins(shards: Iterable[Ref]) -> tuple[str, ...]:
    """The datasets with rows in dev and none in test, from the shards of all splits."""
    splits: dict[str, set[str]] = {}
    for dataset, split in (place(ref) for ref in shards if ref.rows):
        splits.setdefault(dataset, set()).add(split)
    return tuple(sorted(name for name, found in splits.items() if "dev" in found and "test" not in found))


def evaluated(dialogues: Iterable[DialogueKey], stand_ins: Collection[str]) -> set[DialogueKey]:
    """The dialogues of `stand_ins`' dev that give numbers; of all the dialogues of dev, so that the parts are the same.

    A dataset's only dialogue gives them too, beside choosing: there is no other. The report says so.
    """
    found: set[DialogueKey] = set()
    by_dataset: dict[str, set[str]] = {}
    for dataset, split, dialogue_id in dialogues:
        if split == "dev" and dataset in stand_ins:
            by_dataset.setdefault(dataset, set()).add(dialogue_id)
    for dataset, ids in by_dataset.items():
        held_out = hold_out(ids, SHARE, 0, dataset, "dev.evaluated") if len(ids) > 1 else ids
        found |= {(dataset, "dev", dialogue_id) for dialogue_id in held_out}
    return found


def choosing(dialogues: Iterable[DialogueKey], stand_ins: Collection[str]) -> set[DialogueKey]:
    """The dialogues that may choose: all but those evaluated on, and a dataset's only one."""
    dialogues = set(dialogues)
    out = evaluated(dialogues, stand_ins)
    of_dev = Counter(key[:2] for key in dialogues)
    alone = {key for key in out if of_dev[key[:2]] == 1}
    return dialogues - (out - alone)
