"""A bucket as a store uses it: listed page by page, objects read, put, and put on a condition. The one module that speaks S3.

By obstore, the Python face of the Rust object_store: it has conditional puts (If-None-Match and If-Match), needs nothing else
installed, and tries again by itself, later and later, after 5xx, 429, time-outs and cut connections, which is not repeated
here. What it cannot know is whether a conditional put that got no answer was done: that is read back.

Every error is one line: what, where, what to do. What is read is bounded and is not trusted: whoever reads it checks it.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from storage.files import StoreError, shown
from storage.remote.address import Address, endpoint

LOG = logging.getLogger(__name__)
REQUEST_S = 60.0
"""Seconds after which a request counts as lost."""
RETRY_S = 180.0
"""Seconds for which a request that fails by what can pass is tried again."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, TRIES = 0.2, 10.0, 8
PIECE = 16 * 2**20
"""Bytes that are asked for, or sent, at once: a larger object comes in pieces, each of which is tried again by itself."""
LARGEST_NOTE = 256 * 2**20
"""Bytes of a JSON object at most: a record names every raw file that its item read."""
ROLES = "169.254.169.254"
"""Where a machine of Amazon's asks for the keys of its role, where none are set."""
PROBE = "probe/conditions"
"""An object that is put on conditions that do not hold: whether the server heeds them."""
NO_TAG = f'"{32 * "0"}"'
"""A tag that no object has."""


@dataclass(frozen=True)
class Entry:
    """What a listing says of an object. modified: by the server's clock."""

    size: int
    modified: datetime


class Bucket:
    """The objects under one address, by their names below its prefix. Any number of threads may use it."""

    def __init__(self, address: Address):
        self.address = address

    def __str__(self) -> str:
        return str(self.address)

    @cached_property
    def _client(self) -> Any:
        try:
            from obstore.store import S3Store
        except ImportError:
            raise StoreError(
                f"{self}: stores on object storage need the package obstore: pip install 'empamba[s3]', or obstore by itself"
            ) from None
        return S3Store(
            self.address.bucket,
            prefix=self.address.prefix or None,
            client_options={
                "timeout": timedelta(seconds=REQUEST_S),
                "connect_timeout": timedelta(seconds=min(10.0, REQUEST_S)),
                "allow_http": endpoint().startswith("http://"),
            },
            retry_config={
                "max_retries": TRIES,
                "retry_timeout": timedelta(seconds=RETRY_S),
                "backoff": {
                    "init_backoff": timedelta(seconds=FIRST_PAUSE_S),
                    "max_backoff": timedelta(seconds=LONGEST_PAUSE_S),
                    "base": 2,
                },
            },
        )

    def list(self, folder: str | None = None) -> dict[str, Entry]:
        """Every object, or those in a folder, by its name: a request for each thousand of them."""
        import obstore

        found = {}
        with self._telling("listed"):
            for page in obstore.list(self._client, folder, chunk_size=1000):
                for meta in page:
                    found[meta["path"]] = Entry(meta["size"], meta["last_modified"])
        return found

    def get(self, name: str, most: int = LARGEST_NOTE) -> bytes | None:
        """An object's bytes; None where there is none. StoreError where it has more than `most`."""
        found = self._read(name, most)
        return None if found is None else found[0]

    def _read(self, name: str, most: int) -> tuple[bytes, str | None] | None:
        """An object's bytes and its tag, by which it is replaced."""
        import obstore

        with self._telling("read", name), contextlib.suppress(FileNotFoundError):
            answer = obstore.get(self._client, name)
            if answer.meta["size"] > most:
                raise StoreError(
                    f"{self}/{name}: {answer.meta['size']} bytes, where {most} at most are expected"
                )
            return bytes(answer.bytes()), answer.meta["e_tag"]
        return None

    def size(self, name: str) -> int | None:
        """An object's bytes, counted; None where there is none."""
        import obstore

        with self._telling("read", name), contextlib.suppress(FileNotFoundError):
            return obstore.head(self._client, name)["size"]
        return None

    def pieces(self, name: str, size: int) -> Iterator[bytes]:
        """The bytes of an object of that size, piece by piece. FileNotFoundError where there is none."""
        import obstore

        for start in range(0, size, PIECE):
            with self._telling("read", name):
                yield bytes(
                    obstore.get_range(self._client, name, start=start, length=min(PIECE, size - start))
                )

    def put(self, name: str, data: bytes | Path) -> None:
        """Put an object, whatever is there: for names that say what their objects hold."""
        import obstore

        with self._telling("written", name):
            obstore.put(self._client, name, data, chunk_size=PIECE, max_concurrency=4)

    def create(self, name: str, data: bytes) -> bytes | None:
        """Put an object that is not there yet. None where this put made it, or one of the same bytes did; else what is there.

        The server's "it exists" may mean that an earlier try of this put came through, its "conflict" that another put is
        under way, and no answer either: what is there is read back, and where nothing is there it is tried again.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, GenericError

        why, until, pause = "others write it again and again", time.monotonic() + RETRY_S, FIRST_PAUSE_S
        while time.monotonic() < until:
            with self._telling("written", name):
                try:
                    obstore.put(self._client, name, data, mode="create", use_multipart=False)
                    return None
                except AlreadyExistsError:
                    pass
                except GenericError as error:
                    if _status(error) is not None:  # an answer, and one that will not change
                        raise
                    why = _first(error)
            there = self.get(name)
            if there is not None:
                return None if there == data else there
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        raise StoreError(f"{self}/{name}: cannot be written: {why}; nothing is lost: run again")

    def replace(self, name: str, data: bytes, there: bytes) -> bool:
        """Put an object in the place of one with these bytes; False where by now it has others."""
        import obstore
        from obstore.exceptions import PreconditionError

        found = self._read(name, LARGEST_NOTE)
        if found is None:
            return self.create(name, data) is None
        if found[0] != there or found[1] is None:
            return found[0] == data
        with self._telling("written", name):
            try:
                obstore.put(self._client, name, data, mode={"e_tag": found[1]}, use_multipart=False)
            except PreconditionError:
                return self.get(name) == data
        return True

    def delete(self, name: str) -> None:
        """Remove an object; a missing one is no error."""
        import obstore

        with self._telling("removed", name), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._client, name)

    def refuse_without_conditions(self) -> None:
        """StoreError where the server puts an object although the condition that it was asked to put it on does not hold.

        Two machines could then each believe that an item's record is theirs.
        """
        # The first put may make the probe; the second finds it there.
        if not any(self._turned_away("create") for _ in range(2)):
            ignored = "If-None-Match: *"
        elif not self._turned_away({"e_tag": NO_TAG}):
            ignored = "If-Match"
        else:
            return
        raise StoreError(
            f"{self}: this server ignores `{ignored}`, without which two machines could overwrite each other's records: "
            "use one that heeds it, as Amazon S3 does, or a folder"
        )

    def _turned_away(self, mode: Any) -> bool:
        """Whether the server refuses to put the probe on this condition."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        with self._telling("written", PROBE):
            try:
                obstore.put(self._client, PROBE, secrets.token_bytes(8), mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return True
            except NotSupportedError:
                pass
        return False

    @contextlib.contextmanager
    def _telling(self, verb: str, name: str = "") -> Iterator[None]:
        """StoreError, in one line that says what to do, for what the server or the way to it refuses."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        where = f"{self}/{name}" if name else str(self)
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            status = _status(error)
            if ROLES in str(error):
                raise StoreError(
                    f"{self}: no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; this machine has no role by which it could ask"
                ) from None
            if isinstance(error, (PermissionDeniedError, UnauthenticatedError)) or status in (401, 403):
                raise StoreError(
                    f"{where}: access denied; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the machine's clock, and that "
                    f"they may list, read and write {self}"
                ) from None
            if "NoSuchBucket" in str(error) or status == 404 and not name:
                raise StoreError(
                    f"{self}: no such bucket; make it, or correct the name, AWS_REGION or AWS_ENDPOINT_URL"
                ) from None
            if isinstance(error, FileNotFoundError):
                raise
            if "invalid path" in str(error):
                raise StoreError(
                    f"{where}: {_first(error)}: no name of a store's: remove that object"
                ) from None
            raise StoreError(
                f"{where}: cannot be {verb}: {_first(error)}; nothing is lost: check the network and AWS_ENDPOINT_URL "
                f"({endpoint() or 'not set: Amazon S3'}), and run again"
            ) from None


def _status(error: Exception) -> int | None:
    """The status code that a server answered with; None where no answer came."""
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _first(error: Exception) -> str:
    """What is wrong, on one line."""
    line = (str(error).splitlines() or [type(error).__name__])[0].removeprefix("Generic S3 error: ")
    return shown(re.sub(r"Error performing \w+ \S+ in .*? - ", "", line)[:300])
