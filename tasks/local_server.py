"""What the chat's two servers share: they listen on this machine alone unless asked, and answer no other page's script.

Knows nothing of conversations.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from storage.errors import InputError

GRACE_S = 2
"""Seconds that open connections have to end in, once the server is stopped."""


def is_local(host: str) -> bool:
    """Whether nobody but this machine reaches what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guard(app: FastAPI, host: str) -> None:
    """Requests must mean this server by name, so that no other name can be made to lead here, and what changes anything
    must not come from another site's page."""
    if is_local(host):
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", host])

    @app.middleware("http")
    async def same_origin(request: Request, follow: Callable[[Request], Awaitable[Response]]) -> Response:
        origin = request.headers.get("origin")
        if origin and request.method != "GET" and urlsplit(origin).netloc != request.headers.get("host"):
            return Response("not from another site's page", 403)
        return await follow(request)


def listen(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until a signal ends it. ready: called with the address once it listens. InputError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"{host}:{port}: cannot listen there ({reason}); give another --port or --host"
            ) from None
        listening.listen(128)
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listening.getsockname()[1]}")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S, lifespan="off"
        )
        uvicorn.Server(config).run([listening])
