"""What a store in a bucket asks of its server: requests counted, by a proxy before a real S3 server (moto's). `make bench NAME=object_store`.

The store of the benchmark `status`, of MELD's size and shape, made on one machine; then what `status` costs on another that
begins with nothing, and again with what it knows by then. Requests are what a bill and a wait on a network are made of; seconds
are printed too, of a server on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.status import fill, lay_out
from storage.remote.address import working_folder
from tasks.engine.session import Session
from tasks.settings import load_settings
from tests.support.s3_server import BUCKET, S3, s3_server


def requests(s3: S3, before: int) -> dict[str, int]:
    """By what they ask for: LIST, or the method."""
    kinds = ("LIST" if "list-type=2" in name else method for method, name in s3.requests[before:])
    return dict(Counter(kinds))


def status(s3: S3, cache: Path, address: str, raw: Path) -> dict:
    """What a plan costs on a machine with this cache, everything fresh."""
    os.environ["EMPAMBA_CACHE"] = str(cache)
    before, began = len(s3.requests), time.perf_counter()
    with Session(load_settings("tiny"), "tiny", working_folder(address), raw) as session:
        states = {plan.state for plan in session.plan()}
    assert states <= {"fresh", "not run"}, states
    return {"seconds": round(time.perf_counter() - began, 2), **requests(s3, before)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, nargs="*", default=[1, 4])
    figures: dict = {"name": "object_store"}
    with tempfile.TemporaryDirectory() as scratch, s3_server() as s3:
        os.environ.update(s3.environment())
        for times in parser.parse_args().times:
            place, address = Path(scratch) / str(times), f"s3://{BUCKET}/{times}"
            lay_out(place / "raw", times)
            os.environ["EMPAMBA_CACHE"] = str(place / "one")
            items = fill(working_folder(address), place / "raw")
            s3.prefix = f"{times}/"
            figures[f"{times}x"] = {
                "items": items,
                "objects": len(s3.names()),
                "made": requests(s3, 0),
                "another machine": status(s3, place / "two", address, place / "raw"),
                "again": status(s3, place / "two", address, place / "raw"),
            }
            s3.requests.clear()
            print(json.dumps(figures[f"{times}x"]), flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
