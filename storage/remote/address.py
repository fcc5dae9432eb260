"""Where a store on object storage is, and the working folder that this machine keeps of it.

    s3://BUCKET/PREFIX     the store, as `--store` takes it
    CACHE/stores/DIGEST/   its working folder: an ordinary store, and bucket.json, which says of which bucket it is

Credentials, region and endpoint come from the environment and stand in no file. Knows nothing of what a store holds,
and loads no client of object storage.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from storage.errors import InputError
from storage.files import (
    BUCKET_FILE,
    SCHEME,
    StoreError,
    canonical,
    digest_bytes,
    sealed,
    unsealed,
    write_atomic,
)
from storage.user_cache import user_cache

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
"""Variables that name a server other than Amazon's, the first that is set."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PART = re.compile(r"[A-Za-z0-9_.=-]{1,100}")


@dataclass(frozen=True)
class Address:
    """A bucket, and the prefix of all names in it that are this store's; empty for the whole bucket."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return SCHEME + "/".join(filter(None, (self.bucket, self.prefix)))


def is_address(store: Path | str) -> bool:
    """Whether a store is named by an address, and not by a folder."""
    return "://" in str(store)


def parsed(text: str) -> Address:
    """The address that a text is. InputError, in one line, where it is none."""
    bucket, _, prefix = text.removeprefix(SCHEME).rstrip("/").partition("/")
    parts = prefix.split("/") if prefix else []
    fits = all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)
    if not text.startswith(SCHEME) or not _BUCKET.fullmatch(bucket) or not fits:
        raise InputError(
            f"--store {text[:200]!a}: give a folder, or s3://bucket/prefix of letters, digits, _ . = and -; keys, region and "
            "endpoint are read from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL"
        )
    return Address(bucket, prefix)


def endpoint() -> str:
    """The server's address; empty for Amazon's own."""
    return next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")


def working_folder(store: Path | str) -> Path:
    """The folder in which a store is worked with: itself, or this machine's working folder of a bucket. InputError."""
    if not is_address(store):
        return Path(store)
    address = parsed(str(store))
    folder = user_cache() / "stores" / _digest(address)
    if not (folder / BUCKET_FILE).exists():
        write_atomic(folder / BUCKET_FILE, sealed({"address": str(address)}))
    return folder


def address_of(folder: Path) -> Address | None:
    """The bucket that a folder is the working folder of; None for an ordinary store.

    StoreError where that cannot be told, or where the endpoint of the environment is another than it was made with.
    """
    path = folder / BUCKET_FILE
    try:
        value, checked = unsealed(path.read_bytes())
        address = parsed(str(value["address"])) if checked else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError):
        address = None
    if address is None:
        raise StoreError(
            f"{path}: damaged; remove {folder}: it is a working folder of a bucket, which holds all of it"
        )
    if folder.resolve().name != _digest(address):
        raise StoreError(
            f"{folder}: a working folder of {address} at another endpoint than AWS_ENDPOINT_URL names: set it as it was, "
            f"or use --store {address}"
        )
    return address


def _digest(address: Address) -> str:
    """The same bucket's name at two endpoints is two buckets."""
    return digest_bytes(canonical([str(address), endpoint()]))
