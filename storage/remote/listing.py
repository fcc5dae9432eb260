"""What a bucket holds of a store, as one listing of it tells.

    objects/ab/abcd…          as in a store's folder
    records/STAGE/KEY.json    an item's record, and what its key was made from: {"record", "parts"}, sealed
    rows/STAGE/DIGEST.parquet finished rows (storage/remote/segments)
    fixed/NAME.json           a number that is fixed once: {"name", "value"}, sealed
    runs/ID.json              as in a store's folder
    probe/conditions          whether the server heeds conditions (storage/remote/bucket)

Every object but the probe says all that it ever will when it is first written; a record alone may be replaced. A name that is none of these is not read.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from pydantic import TypeAdapter, ValidationError

from storage.names import Digest, Name, StageName, is_digest
from storage.remote.bucket import PROBE, Entry

RUN = re.compile(r"runs/(\d{8}-\d{6}-[0-9a-f]{6})\.json")
_STAGE = TypeAdapter(StageName)
_NAME = TypeAdapter(Name)


def object_name(digest: Digest) -> str:
    return f"objects/{digest[:2]}/{digest}"


def record_name(stage: StageName, key: Digest) -> str:
    return f"records/{stage}/{key}.json"


def segment_name(stage: StageName, digest: Digest) -> str:
    return f"rows/{stage}/{digest}.parquet"


def fixed_name(name: Name) -> str:
    return f"fixed/{name}.json"


def run_name(run: str) -> str:
    return f"runs/{run}.json"


@dataclass
class Listing:
    """objects: their sizes by digest. records, runs: when each was written, by the server's clock. strange: names that are no store's.
    damaged: names of what was read and cannot be used, and why.
    """

    objects: dict[str, int] = field(default_factory=dict)
    records: dict[tuple[str, str], datetime] = field(default_factory=dict)
    segments: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    fixed: list[str] = field(default_factory=list)
    runs: dict[str, datetime] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)

    @cached_property
    def newest(self) -> datetime:
        """When the last of the records was written that were there then. What is seen to come later is no older, and what a machine's own
        clock says of that is not asked: it may be wrong."""
        return max(self.records.values(), default=datetime.min.replace(tzinfo=UTC))


def listing(entries: Mapping[str, Entry]) -> Listing:
    """What the names of a bucket's objects say, each of them checked."""
    found = Listing()
    for name, entry in sorted(entries.items()):
        if name != PROBE and not _sort(found, name, entry):
            found.strange.append(name)
    return found


def _sort(found: Listing, name: str, entry: Entry) -> bool:
    """Put one name where it belongs; False where it belongs nowhere."""
    parts = name.split("/")
    kind, middle, last = parts[0], parts[1:-1], parts[-1]
    stem, _, suffix = last.partition(".")
    if kind == "objects" and middle == [last[:2]] and is_digest(last):
        found.objects[last] = entry.size
    elif (
        kind == "records"
        and len(middle) == 1
        and _is_stage(middle[0])
        and is_digest(stem)
        and suffix == "json"
    ):
        found.records[middle[0], stem] = entry.modified
    elif (
        kind == "rows"
        and len(middle) == 1
        and _is_stage(middle[0])
        and is_digest(stem)
        and suffix == "parquet"
    ):
        found.segments[middle[0]].append(stem)
    elif (
        kind == "fixed"
        and name.endswith(".json")
        and _fits(_NAME, name.removeprefix("fixed/").removesuffix(".json"))
    ):
        found.fixed.append(name.removeprefix("fixed/").removesuffix(".json"))
    elif run := RUN.fullmatch(name):
        found.runs[run[1]] = entry.modified
    else:
        return False
    return True


def _is_stage(name: str) -> bool:
    return _fits(_STAGE, name)


def _fits(kind: TypeAdapter, name: str) -> bool:
    try:
        kind.validate_python(name)
    except ValidationError:
        return False
    return True
