"""Encoded clips that were finished before, each stored once: as a row of its own while its shard is in work, then there.

What stays of such a row is its place in the shard, and what the clip is. Knows nothing of decoding or of encoders.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from storage.shards import FEATURE_BLOBS, ShardError, read_table
from storage.store import Ref, Store, StoreError, canonical
from storage.tables import KEY_COLUMNS

COLUMNS = (*FEATURE_BLOBS, *(f"{name}_shape" for name in FEATURE_BLOBS))


@dataclass(frozen=True)
class Encoded:
    """One clip: blobs and shapes as a row of the table has them, and what the clip is."""

    columns: dict
    facts: dict


class EncodedClips:
    """Clips by the key of what each is made from (Workspace.row_key)."""

    def __init__(self, store: Store):
        self._store, self._rows = store, store.rows("features")

    def known(self, keys: Iterable[str]) -> dict[str, Encoded]:
        """Those that are there; one whose shard has gone, or is damaged, is not."""
        found: dict[str, Encoded] = {}
        placed: dict[str, dict[str, dict]] = defaultdict(dict)
        for key, value in self._rows.get_many(keys).items():
            head, _, blobs = value.partition(b"\n")
            facts = json.loads(head)
            if "shard" in facts:
                placed[facts["shard"]][key] = facts
            else:
                found[key] = _unpacked(facts, blobs)
        for digest, members in placed.items():
            found |= self._in_shard(digest, members)
        return found

    def _in_shard(self, digest: str, members: Mapping[str, dict]) -> dict[str, Encoded]:
        try:
            path = self._store.path(Ref(name="features", digest=digest, size=0))
            rows = read_table(path, "features", COLUMNS)
            return {key: Encoded(rows[facts["row"]], facts["clip"]) for key, facts in members.items()}
        except (StoreError, ShardError, IndexError):
            return {}

    def keep(self, key: str, clip: Encoded) -> None:
        """Store a clip by itself: a shard that is cut off goes on from it."""
        self._rows.put(key, _packed(clip))

    def place(self, shard: Ref, members: Mapping[tuple, tuple[str, Encoded]]) -> None:
        """Leave of clips that are in `shard` by now no more than where. members: row's key -> clip's key, and the clip."""
        rows = read_table(self._store.object_path(shard.digest), "features", KEY_COLUMNS)
        for number, row in enumerate(rows):
            key, clip = members[tuple(row[name] for name in KEY_COLUMNS)]
            self._rows.put(key, canonical({"shard": shard.digest, "row": number, "clip": clip.facts}))

    def close(self) -> None:
        self._rows.close()


def _packed(clip: Encoded) -> bytes:
    """A JSON line of shapes and of what the clip is, then the blobs."""
    blobs = [clip.columns[name] for name in FEATURE_BLOBS]
    sizes = {
        name: None if blob is None else len(blob) for name, blob in zip(FEATURE_BLOBS, blobs, strict=True)
    }
    shapes = {name: clip.columns[f"{name}_shape"] for name in FEATURE_BLOBS}
    head = canonical({"sizes": sizes, "shapes": shapes, "clip": clip.facts})
    return b"".join([head, b"\n", *(blob for blob in blobs if blob is not None)])


def _unpacked(facts: dict, blobs: bytes) -> Encoded:
    columns: dict = {}
    for name in FEATURE_BLOBS:
        size = facts["sizes"][name]
        columns[name], blobs = (None, blobs) if size is None else (blobs[:size], blobs[size:])
        columns[f"{name}_shape"] = facts["shapes"][name]
    return Encoded(columns, facts["clip"])
