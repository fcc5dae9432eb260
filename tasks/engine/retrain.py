"""When a trained stage whose data changed may wait, how far the model is then behind, and what training starts from.

Only changed rows can wait, or continue training from the last weights. Other code, settings, weights, libraries, or
an earlier stage that was retrained, make the stage stale whatever the policy, and start it anew. Knows nothing of
what is trained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, Field

from storage.names import is_name
from storage.store import Record, Ref, Store
from tasks.engine.item import SEEN, Item, artefact, shards
from tasks.engine.row_differences import changed_rows, is_shard


class RetrainSettings(BaseModel, frozen=True, extra="forbid"):
    """When changed rows make a trained stage stale. Not in the paper."""

    when: Literal["always", "share", "never"] = Field(
        "always",
        description="always: any changed row retrains. share: from `share` of the rows on. never: rows never do.",
    )
    share: float = Field(0.05, gt=0, le=1, description="Share of a stage's rows that must have changed.")
    warm_start: bool = Field(
        False,
        description="Where rows alone changed, extractor, compressor.pretrain and dialogue start from their weights of "
        "last time and not from new ones; compressor.finetune and epo start from the stage before them as always.",
    )


START = "start"
"""The argument that hands a trained stage its last weights."""


def deferred(store: Store, item: Item, parts: dict, settings: RetrainSettings) -> tuple[Record, str] | None:
    """The record that an item may keep, and how many rows it is behind; None where the item must run."""
    last = store.last(item.stage.name, item.label)
    if settings.when == "always" or last is None:
        return None
    record = store.record(item.stage.name, last["key"])
    if record is None or not all(store.holds(ref) for ref in record.outputs):
        return None
    if not _only_rows_differ(last["parts"], parts):
        return None
    found = changed_rows(store, *(shards(p, p["input"].keys()) for p in (last["parts"], parts)))
    if found is None:
        return None
    changed, total = found
    share = changed / max(1, total)
    if settings.when == "share" and share >= settings.share:
        return None
    limit = "never" if settings.when == "never" else f"from {settings.share:.1%} on"
    return record, f"behind the data by {changed} rows ({share:.1%} of {total}; retrains {limit})"


def _only_rows_differ(old: dict, new: dict) -> bool:
    if "input" not in old or any(old.get(k) != new[k] for k in new if k not in ("input", SEEN)):
        return False
    return _others(old["input"]) == _others(new["input"])


def _others(inputs: dict[str, str]) -> dict[str, str]:
    """The inputs that are neither tables of rows nor what training started from: earlier stages' weights."""
    return {
        name: digest
        for name, digest in inputs.items()
        if not is_shard(artefact(name)) and not name.startswith(f"{START} ")
    }


def warm_started(store: Store, item: Item) -> Item:
    """The item, warm-started from its last output; unchanged where more than rows changed, or where that output is
    gone.

    What training started from is part of its key. So an item for which nothing changed keeps the start that its
    record names, and is fresh.
    """
    last = store.last(item.stage.name, item.label)
    if last is None:
        return item
    record = store.record(item.stage.name, last["key"])
    if record is None or not _only_rows_differ(last["parts"], item.parts()):
        return item
    before = _started_from(store, last["parts"]["input"])
    again = item if before is None else _starting(item, before)
    if again.key() == last["key"]:
        return again if before is None or store.holds(before) else item
    if len(record.outputs) != 1:
        return item
    (output,) = record.outputs
    return _starting(item, output) if store.holds(output) else item


def _starting(item: Item, start: Ref) -> Item:
    return replace(item, arguments={**item.arguments, START: start})


def _started_from(store: Store, inputs: dict[str, str]) -> Ref | None:
    """The weights that a training started from, by its key's inputs; None where it started from new ones.

    No record need name them any more. Their size is that of what lies there, a listing, which is checked by its
    digest whenever it is read.
    """
    names = [name for name in inputs if name.startswith(f"{START} ") and is_name(artefact(name))]
    if not names:
        return None
    digest = inputs[names[0]]
    return Ref(name=artefact(names[0]), digest=digest, size=store.size(digest), tree=True)
