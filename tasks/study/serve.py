"""Runs a study's application on this machine alone, unless told otherwise. Knows nothing of what it serves."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from storage.errors import InputError
from storage.files import shown


def serve(folder: Path, host: str, port: int, told: Callable[[str], None]) -> None:
    """Serve until a signal ends it. told: called with the address, once it is listened on.

    InputError where the folder holds no study, another server has it, or the address cannot be had.
    """
    from tasks.local_server import listen
    from tasks.study.app import study_app

    with _alone(folder):
        listen(
            study_app(folder),
            host,
            port,
            told,
            grace_s=5,
            ipv4_too=False,
            server_header=False,
            proxy_headers=False,
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One server a folder, by a kernel lock: a killed one holds none."""
    try:
        handle = os.open(folder / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InputError(
            f"{shown(folder)}: cannot be used ({error.strerror}): give the folder that `empamba study make` wrote"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InputError(f"{shown(folder)}: another `empamba study serve` has it open") from None
    finally:
        os.close(handle)
