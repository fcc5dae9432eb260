"""Which dialogues and turns changed between two versions of a shard: the most exact part of a stale reason.

Reads shards only; knows nothing of stages, of keys, or of why anyone asks.
"""

from __future__ import annotations

from collections import defaultdict

from storage.names import is_name
from storage.store import Ref, Store, StoreError
from storage.tables import VERSIONS, VIEWS, key_columns

NAMED = 5
"""Dialogues named in one reason; further ones are counted."""

MOST_SHARDS = 32

TABLES = tuple(VERSIONS)
"""Tables in the order in which stages make them."""

Rows = dict[tuple[str, str], dict[tuple, dict]]
"""(place, dialogue id) -> rest of the row's key -> row."""


def changed_dialogues(store: Store, old: list[Ref], new: list[Ref]) -> list[str]:
    """One line for each dialogue that differs between two sets of shards, as "meld/train dialogue 17: turn 3 (text)".

    Shards of the same digest are not read, and of several tables the earliest. Empty where an old one is not there any more, and where so many
    changed that no name would help.
    """
    same = {ref.digest for ref in old} & {ref.digest for ref in new}
    changed = [[r for r in refs if r.digest not in same and is_shard(r.name)] for refs in (old, new)]
    # What changed in an early table changed in those made from it: the earliest names the cause.
    earliest = min((TABLES.index(_table(r)) for refs in changed for r in refs), default=None)
    changed = [[r for r in refs if TABLES.index(_table(r)) == earliest] for refs in changed]
    if max(map(len, changed)) > MOST_SHARDS:
        return []
    try:
        before, after = (read_shards(store, refs) for refs in changed)
    except StoreError:
        return []
    return compare(before, after)


def changed_rows(store: Store, old: list[Ref], new: list[Ref]) -> tuple[int, int] | None:
    """(rows changed, added or removed, rows there are now) of the table of which the largest share changed.

    None where it is not known: an old shard is not there any more.
    """
    counts = []
    for table in {_table(ref) for ref in (*old, *new)}:
        before, after = ({r.name: r for r in refs if _table(r) == table} for refs in (old, new))
        names = [n for n in before.keys() | after.keys() if _digest(before.get(n)) != _digest(after.get(n))]
        try:
            was, now = (read_shards(store, [refs[n] for n in names if n in refs]) for refs in (before, after))
            same = read_shards(store, [ref for name, ref in after.items() if name not in names])
        except StoreError:
            return None
        changed = sum(_different_rows(was.get(key, {}), now.get(key, {})) for key in was.keys() | now.keys())
        counts.append((changed, sum(map(len, now.values())) + sum(map(len, same.values()))))
    return max(counts, key=lambda count: count[0] / max(1, count[1]), default=(0, 0))


def _digest(ref: Ref | None) -> str | None:
    return None if ref is None else ref.digest


def _different_rows(before: dict[tuple, dict], after: dict[tuple, dict]) -> int:
    return sum(before.get(row) != after.get(row) for row in before.keys() | after.keys())


def is_shard(name: str) -> bool:
    """Whether an artefact of this name is a table of dialogues' rows."""
    table, slash, _ = name.partition("/")
    return bool(slash) and table in TABLES and table != "rejects" and is_name(name)


def compare(before: Rows, after: Rows) -> list[str]:
    """The lines of `changed_dialogues` from the rows themselves."""
    lines = []
    for key in sorted(before.keys() | after.keys(), key=_natural):
        what = _difference(before.get(key), after.get(key))
        if what:
            lines.append(f"{key[0]} dialogue {key[1]}: {what}")
    if len(lines) > NAMED + 1:
        return [*lines[:NAMED], f"and {len(lines) - NAMED} more dialogues"]
    return lines


def group(rows: list[dict], table: str) -> Rows:
    """Rows by dialogue."""
    found: Rows = defaultdict(dict)
    for row in rows:
        dataset, split, dialogue, *rest = (row[name] for name in key_columns(table))
        found[f"{dataset}/{split}", dialogue][tuple(rest)] = row
    return dict(found)


def read_shards(store: Store, refs: list[Ref]) -> Rows:
    """The rows of some shards of one table, by dialogue. StoreError where one is gone, or is no such table."""
    from storage.shards import (  # pyarrow, which a plan without changed shards does not need
        ShardError,
        read_table,
    )

    found: Rows = {}
    for ref in refs:
        table = _table(ref)
        # Of features what they were made from is compared, not the states themselves.
        columns = (*key_columns(table), "media_digest") if table == "features" else None
        columns = VIEWS[table].get(ref.view, columns) if ref.view else columns
        try:
            found |= group(read_table(store.read(ref), table, columns), table)
        except ShardError as error:
            raise StoreError(f"{ref.name}: {error}") from error
    return found


def _table(ref: Ref) -> str:
    return ref.name.split("/")[0]


def _difference(before: dict | None, after: dict | None) -> str:
    if before is None:
        return "new"
    if after is None:
        return "gone"
    parts = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        columns = [] if old is None or new is None else [name for name in new if old.get(name) != new[name]]
        change = "new" if old is None else "gone" if new is None else ", ".join(columns)
        parts.append(f"turn {key[0]} ({change})")
    return "; ".join(dict.fromkeys(parts[:3])) + ("; …" if len(parts) > 3 else "")


def _natural(key: tuple[str, str]) -> tuple:
    """Sort key that puts dialogue 9 before dialogue 10."""
    return (key[0], (0, int(key[1]), "") if key[1].isdigit() else (1, 0, key[1]))
