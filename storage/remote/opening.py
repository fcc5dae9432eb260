"""Opening a store, wherever it is: an ordinary folder, or the working folder of a bucket."""

from __future__ import annotations

import logging
from pathlib import Path

from storage.filestat import StatCache
from storage.remote.address import address_of
from storage.remote.bucket import Bucket
from storage.remote.listing import Listing
from storage.remote.store import BucketStore
from storage.store import Store, StoreError

LOG = logging.getLogger(__name__)

_PULLED: dict[Path, Listing] = {}
"""What the command line has just pulled, so that the session it opens does not list it all again."""


def open_store(
    root: Path | str, stats: StatCache | None = None, rows_anew: bool = False, pull: bool = False
) -> Store:
    """The store in a folder, or the one that the folder is this machine's working folder of.

    pull: take over first what others have put there (BucketStore.pull).
    """
    folder = Path(root).resolve()
    address = address_of(folder)
    if address is None:
        return Store(folder, stats, rows_anew)
    handed = _PULLED.pop(folder, None) if pull else None
    store = BucketStore(folder, Bucket(address), stats, rows_anew, handed)
    if pull and handed is None:
        store.pull()
    return store


def pull_first(root: Path) -> None:
    """Take over what others have put into a bucket, for a command that looks into the working folder before it opens a session."""
    store = open_store(root)
    if isinstance(store, BucketStore):
        _PULLED[store.root] = store.pull()


def share_run(root: Path, run: str) -> None:
    """Put the record of a run that has ended where others see it; where that fails the log says so, and no work is lost."""
    store = open_store(root)
    if isinstance(store, BucketStore):
        try:
            store.share_run(run)
        except (StoreError, OSError) as error:
            LOG.warning("run %s is on record on this machine alone: %s", run, error)
