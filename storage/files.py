"""How a store's files are written and read: whole or not at all, durable, and small ones with a check of their own.

Knows nothing of what the files are for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from storage.names import DIGEST_BYTES

TEMPORARY = ".tmp-"
"""Prefix of unfinished files' names."""

CHECK = "check"
"""The key under which a sealed file keeps the digest of its other keys."""

DEFAULT_STORE = "store"
"""The store that a command uses by default."""
REPAIR = "verify --repair"

BUCKET_FILE = "bucket.json"
"""In a working folder of a bucket (storage/remote): which one that is."""
SCHEME = "s3://"


class StoreError(RuntimeError):
    """The store cannot be used or an artefact is damaged; the message says which and what to do."""


class UnreadableError(StoreError):
    """A file of the store is damaged; the message names it."""


def digest_bytes(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def canonical(value) -> bytes:
    """JSON with sorted keys; what JSON cannot hold raises, so nothing is ever digested by its repr."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sealed(value: dict) -> bytes:
    """An object as JSON, with a digest of the rest of it under "check"."""
    return canonical({**value, CHECK: digest_bytes(canonical(value))})


def unsealed(data: bytes) -> tuple[dict, bool]:
    """The object without its check, and whether it had one. ValueError where it is damaged.

    One without a check was written before there were any; the caller decides whether to accept it.
    """
    try:
        value = json.loads(data)
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
        check = value.pop(CHECK, None)
        if check is not None and check != digest_bytes(canonical(value)):
            raise ValueError("it does not match its own check")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value, check is not None


def write_atomic(path: Path, data: bytes | Iterator[bytes]) -> None:
    """The whole file or none, durable on return; its mode is the umask's. StoreError where it cannot be written.

    data: also in pieces; an error that they raise leaves none.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f"{TEMPORARY}{secrets.token_hex(8)}"  # mkstemp's mode would be 0600
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise


def shown(text: Path | str) -> str:
    """A path, or a library's message about a file, on one printable line."""
    text = str(text)
    return text if text.isprintable() else ascii(text)[1:-1]


def shell_word(text: str) -> str:
    """A word that a shell reads back as `text`, and that can be printed."""
    if text.isprintable():
        return shlex.quote(text)
    codes = "".join(f"\\x{byte:02x}" for byte in text.encode("utf-8", "surrogateescape"))
    return f"$'{codes}'"


def store_name(root: Path) -> str:
    """The store as `--store` takes it: the folder, or the address of the bucket that it is the working folder of."""
    try:
        address = unsealed((Path(root) / BUCKET_FILE).read_bytes())[0].get("address")
    except (OSError, ValueError):
        return str(root)
    return address if isinstance(address, str) and address.startswith(SCHEME) else str(root)


def on_store(verb: str, root: Path) -> str:
    """The command that does `verb` with the store `root`, as a shell takes it from this folder; in backticks."""
    usual = Path(root).resolve() == Path(DEFAULT_STORE).resolve()
    return f"`empamba {verb}" + ("`" if usual else f" --store {shell_word(store_name(root))}`")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """StoreError, in one line, for what keeps a file of the store from being written."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StoreError(
            f"{path}: cannot be written: {reason}; nothing is lost: make room or give write access, and run again"
        ) from error
