"""Runs a study's application on this machine alone, unless told otherwise. Knows nothing of what it serves."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from storage.errors import InputError
from storage.files import shown


def serve(folder: Path, host: str, port: int, told: Callable[[str], None]) -> None:
    """Serve until a signal ends it. told: called with the address, once it is listened on.

    InputError where the folder holds no study, another server has it, or the address cannot be had.
    """
    import uvicorn

    from tasks.study.app import study_app

    with _alone(folder), _listening(host, port) as listener:
        config = uvicorn.Config(
            study_app(folder),
            log_level="warning",
            access_log=False,  # addresses are the participants' keys
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=5,
            backlog=2048,
        )
        told(f"http://{host if ':' not in host else f'[{host}]'}:{listener.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine can come to an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"--host {host} --port {port}: {reason}; give another --port") from None
    with listener:
        yield listener
