"""When a trained stage whose data changed may wait: the policy, and how far the model is then behind.

Only changed rows can wait. Other code, settings, weights, libraries, or an earlier stage that was retrained, make
the stage stale whatever the policy. Knows nothing of what is trained.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from storage.store import Record, Ref, Store
from tasks.explain import changed_rows, is_shard
from tasks.stages.stage import Item, artefact


class RetrainSettings(BaseModel, frozen=True, extra="forbid"):
    """When changed rows make a trained stage stale. Not in the paper."""

    when: Literal["always", "share", "never"] = Field(
        "always",
        description="always: any changed row retrains. share: from `share` of the rows on. never: rows never do.",
    )
    share: float = Field(0.05, gt=0, le=1, description="Share of a stage's rows that must have changed.")
    warm_start: bool = Field(
        False, description="Training starts from the weights of the last time and not from new ones."
    )


def waits(store: Store, item: Item, parts: dict, settings: RetrainSettings) -> tuple[Record, str] | None:
    """The record that goes on serving an item, and how far it is behind; None where the item must run."""
    last = store.last(item.stage.name, item.label)
    if settings.when == "always" or last is None:
        return None
    record = store.record(item.stage.name, last["key"])
    if record is None or not all(store.holds(ref) for ref in record.outputs):
        return None
    if not _only_rows_differ(last["parts"], parts):
        return None
    found = changed_rows(store, _shards(last["parts"]["input"]), _shards(parts["input"]))
    if found is None:
        return None
    changed, total = found
    share = changed / max(1, total)
    if settings.when == "share" and share >= settings.share:
        return None
    limit = "never" if settings.when == "never" else f"from {settings.share:.1%} on"
    return record, f"behind the data by {changed} rows ({share:.1%} of {total}; retrains {limit})"


def _only_rows_differ(old: dict, new: dict) -> bool:
    if any(old[kind] != new[kind] for kind in new if kind != "input"):
        return False
    return _others(old["input"]) == _others(new["input"])


def _others(inputs: dict[str, str]) -> dict[str, str]:
    """The inputs that are no tables of rows: earlier stages' weights."""
    return {name: digest for name, digest in inputs.items() if not is_shard(artefact(name))}


def _shards(inputs: dict[str, str]) -> list[Ref]:
    names = (name for name in sorted(inputs) if is_shard(artefact(name)))
    return [Ref(name=artefact(name), digest=inputs[name], size=0) for name in names]
