"""Which exchanges give numbers: those of test, or of the dialogues of dev that stand in for it and chose nothing.

Knows nothing of what is measured on them.
"""

from __future__ import annotations

from storage.exchanges import Exchange
from storage.shards import row_to_exchange
from storage.store import Ref, Store
from tasks.stages.selection import spread
from tasks.stages.shard_names import of_table, place
from tasks.stages.shards import dialogue_keys, read_rows
from tasks.stages.stand_in import evaluated


def evaluation_split(exchanges: list[Ref]) -> dict[str, str]:
    """Dataset -> the split that gives the numbers: test, or dev where a dataset was unpacked without its test part.

    Every table says where dev stands in. Of such a dev only dialogues that chose no checkpoint are evaluated on
    (tasks/stages/stand_in.py).
    """
    splits: dict[str, set[str]] = {}
    for ref in of_table(exchanges, "exchanges"):
        dataset, split = place(ref)
        if ref.rows:
            splits.setdefault(dataset, set()).add(split)
    return {dataset: "test" if "test" in found else "dev" for dataset, found in sorted(splits.items())}


def evaluation_exchanges(store: Store, utterances: list[Ref], exchanges: list[Ref]) -> list[Exchange]:
    """Every exchange of the splits that give numbers, in the order of the shards."""
    splits = evaluation_split(exchanges)
    rows = [row_to_exchange(r)[0] for r in read_rows(store, exchanges, "exchanges", "test", "dev")]
    of_dev = dialogue_keys(read_rows(store, utterances, "utterances", "dev"))
    may = evaluated(of_dev, [dataset for dataset, split in splits.items() if split == "dev"])
    of_splits = [e for e in rows if splits.get(e.dataset) == e.split]
    return [e for e in of_splits if e.split == "test" or e.key[:3] in may]


def exchanges_to_answer(unseen: list[Exchange], count: int | None, seed: int) -> list[Exchange]:
    """Of the exchanges that give numbers those that every rung and every system answers, by key; None: all."""
    return sorted(spread(unseen, count, seed, "replies.exchanges"), key=lambda exchange: exchange.key)
