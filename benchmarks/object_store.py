"""What a store in a bucket asks of its server: requests counted, by a proxy before a real S3 server (moto's). `make bench NAME=object_store`.

Items of one artefact each are put by one machine; then another that begins with nothing opens the store and looks whether each
artefact is there, and does so again with what it knows by then. Requests are what a bill and a wait on a network are made of.

Then `status` of a store of MELD's size (benchmarks/status.py) in seconds, by a machine with nothing and by one that has looked
before; once more with AWAY_S added to every answer, which a server on the same machine does not have.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.status import FRESH, command, cost, fill, lay_out
from storage.records import Record
from storage.remote.address import working_folder
from storage.remote.opening import open_store
from storage.store import Store, digest_bytes
from tests.support.s3_server import BUCKET, S3, s3_server

ADDRESS = f"s3://{BUCKET}/store"
MELD = f"s3://{BUCKET}/meld"
AWAY_S = 0.05


def opened(cache: Path) -> Store:
    """The store as the machine with this cache opens it."""
    os.environ["EMPAMBA_CACHE"] = str(cache)
    return open_store(working_folder(ADDRESS), pull=True)


def put(store: Store, items: int) -> None:
    for number in range(items):
        key = digest_bytes(b"%d" % number)
        store.prepare("stage", key, {})
        outputs = (store.put_bytes("artefact", b"artefact %d" % number),)
        store.commit(Record(stage="stage", label=str(number), key=key, outputs=outputs), {})


def look(cache: Path) -> None:
    store = opened(cache)
    assert all(store.holds(ref) for record in store.records() for ref in record.outputs)


def requests(s3: S3) -> dict[str, int]:
    """By what they asked for since the last call: LIST, or the method."""
    kinds = ("LIST" if "list-type=2" in name else method for method, name in s3.requests)
    found = dict(Counter(kinds))
    s3.requests.clear()
    return found


def status_seconds(s3: S3, scratch: Path) -> dict:
    """What `status` of MELD's size takes: [wall and CPU in seconds, requests of one run] by what the machine knew, and the distance."""
    raw, cache = scratch / "raw", scratch / "meld"
    lay_out(raw, 1)
    os.environ["EMPAMBA_CACHE"] = str(scratch / "maker")
    found: dict = {"items": fill(working_folder(MELD), raw)}
    os.environ["EMPAMBA_CACHE"] = str(cache)
    looks = command("status", MELD, raw, "--json")

    def forget() -> None:
        shutil.rmtree(cache)
        s3.requests.clear()

    for s3.away_s in (0.0, AWAY_S):
        for knew, before in (("nothing", forget), ("all", s3.requests.clear)):
            took = cost(looks, scratch, FRESH, before)
            figures = [round(took.wall_s, 2), round(took.cpu_s, 2), len(s3.requests)]
            found[f"knew {knew}, {s3.away_s:g} s away"] = figures
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=200)
    items = parser.parse_args().items
    with tempfile.TemporaryDirectory() as scratch, s3_server() as s3:
        os.environ.update(s3.environment())
        put(opened(Path(scratch) / "one"), items)
        figures = {"name": "object_store", "items": items, "objects": len(s3.names()), "put": requests(s3)}
        look(Path(scratch) / "two")
        figures["another machine"] = requests(s3)
        look(Path(scratch) / "two")
        figures["again"] = requests(s3)
        figures["status of MELD's size"] = status_seconds(s3, Path(scratch))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
