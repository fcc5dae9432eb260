"""What a store in a bucket asks of its server: requests counted, by a proxy before a real S3 server (moto's). `make bench NAME=object_store`.

Items of one artefact each are put by one machine; then another that begins with nothing opens the store and looks whether each
artefact is there, and does so again with what it knows by then. Requests are what a bill and a wait on a network are made of;
seconds of a server on the same machine say nothing of either, and are not taken.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from pathlib import Path

from storage.records import Record
from storage.remote.address import working_folder
from storage.remote.opening import open_store
from storage.store import Store, digest_bytes
from tests.support.s3_server import BUCKET, S3, s3_server

ADDRESS = f"s3://{BUCKET}/store"


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
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
